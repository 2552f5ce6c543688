"""What an attacker tries who has found the vulnerable search, the application's password, or a stolen token.

Each attack says how the database or the application has to answer. An answer that is merely different (a syntax error,
a 500) does not count as a wall that held.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from httpx2 import AsyncClient
from joserfc import jwt
from joserfc.jwk import OctKey

from demo.app import AUDIENCE, DOMAIN, ISSUER
from demo.stage import Resident
from demo.vulnerable import PATH
from tenantry import AsyncRouter

DENIED = "42501"
"""SQLSTATE insufficient_privilege; the perimeter's own refusals have it too."""

ROWS = "company_id, id, name FROM campaigns"


@dataclass(frozen=True)
class Scene:
    """Who attacks whom. ``beside`` is another schema of the attacker's own database in which a neighbour lives."""

    attacker: Resident
    victim: Resident
    beside: str | None

    @property
    def own(self) -> Any:
        """The key of the attacker's company."""
        return self.attacker.tenant.key


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        refusal: a SQLSTATE, a code or a status of HTTP; None where the request was answered.
        said: for people.
        rows: how many came back, and how many of them were another company's.
    """

    refusal: str | None
    said: str
    rows: int = 0
    foreign: int = 0


@dataclass(frozen=True)
class Outcome:
    """An attack from one level, and whether the wall held there."""

    level: str
    attacker: str
    victim: str
    sent: str
    answer: Answer
    held: bool

    def as_dict(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return {
            "level": self.level,
            "attacker": self.attacker,
            "victim": self.victim,
            "sent": self.sent,
            "refusal": self.answer.refusal,
            "said": self.answer.said,
            "rows": self.answer.rows,
            "foreign_rows": self.answer.foreign,
            "held": self.held,
        }


@dataclass(frozen=True)
class Injection:
    """SQL that is sent to the vulnerable search.

    Attributes:
        text: what is searched for; None where the scene has no place for it.
        refusal: the SQLSTATE that must come back; None: an answer, without other companies' rows.
    """

    name: str
    title: str
    text: Callable[[Scene], str | None]
    refusal: str | None = DENIED


def _union(scene: Scene) -> str:
    return f"' UNION SELECT {ROWS} WHERE company_id <> {scene.own} --"


def _beside(scene: Scene) -> str | None:
    if scene.beside is None:
        return None
    return f"'; SET LOCAL search_path = {scene.beside}; SELECT {ROWS} --"


def _qualified(scene: Scene) -> str | None:
    return None if scene.beside is None else f"' UNION SELECT company_id, id, name FROM {scene.beside}.campaigns --"


def _seal(scene: Scene) -> str:
    return f"'; SELECT set_config('backtrace_functions', 'tenantry_{scene.victim.tenant.code}', true); SELECT {ROWS} --"


def _token(scene: Scene) -> str:
    forged = f"1.k1.{scene.victim.tenant.code}.{int(time.time()) + 60}.0.rw.0.{'0' * 64}"
    return f"'; SELECT tenantry.bind_v1('{forged}'); SELECT {ROWS} --"


def _insert(scene: Scene) -> str:
    values = f"{scene.victim.tenant.key}, 'Ours now', 'cost_per_click'"
    return f"'; INSERT INTO campaigns (company_id, name, cost_model) VALUES ({values}) --"


def _update(scene: Scene) -> str:
    changed = f"company_id <> {scene.own} RETURNING company_id, id, name"
    return f"none'; UPDATE campaigns SET name = 'Ours now' WHERE {changed} --"


def _delete(scene: Scene) -> str:
    return f"none'; DELETE FROM clicks WHERE company_id <> {scene.own} RETURNING company_id, id --"


def _always(text: str) -> Callable[[Scene], str]:
    return lambda scene: text


INJECTIONS = (
    Injection("or-true", "Ask for everything", _always("' OR true --"), None),
    Injection("union", "Ask for the others", _union, None),
    Injection("search-path", "Walk into the next schema", _beside, None),
    Injection("qualified", "Name the next schema", _qualified, None),
    Injection("update", "Rewrite the others' rows", _update, None),
    Injection("delete", "Delete the others' rows", _delete, None),
    Injection("insert", "Plant a row on a neighbour", _insert),
    Injection("seal", "Forge the seal of the binding", _seal),
    Injection("token", "Bind a neighbour by a forged token", _token),
    Injection("commit", "Leave the bound transaction", _always(f"'; COMMIT; SELECT {ROWS} --")),
    Injection("role", "Become the owner", _always(f"'; SET ROLE tenantry_owner; SELECT {ROWS} --")),
    Injection("rls-off", "Look past row security", _always(f"'; SET LOCAL row_security = off; SELECT {ROWS} --")),
    Injection("alter", "Tear the wall down", _always("'; ALTER TABLE campaigns DISABLE ROW LEVEL SECURITY --")),
    Injection("keys", "Steal the signing keys", _always("' UNION SELECT 0, 0, kid FROM tenantry_priv.signing_keys --")),
    Injection("file", "Read the server's files", _always("' UNION SELECT 0, 0, pg_read_file('PG_VERSION') --")),
    Injection("program", "Run a program on the server", _always("'; COPY (SELECT 1) TO PROGRAM 'id' --")),
)


@dataclass
class Attack:
    """An attack with its outcomes at all levels."""

    name: str
    title: str
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def held(self) -> bool:
        """Whether it was tried, and failed each time."""
        return bool(self.outcomes) and all(outcome.held for outcome in self.outcomes)

    def as_dict(self) -> dict[str, Any]:
        """As JSON-ready data."""
        return {
            "name": self.name,
            "title": self.title,
            "held": self.held,
            "outcomes": [outcome.as_dict() for outcome in self.outcomes],
        }


class Attacker:
    """Carries the attacks out.

    Args:
        vulnerable: a client of the application with the vulnerable search.
        application: a client of the real one.
        router: whose logins and secrets the attacker has got hold of.
        secret: what signs tokens.
    """

    def __init__(self, vulnerable: AsyncClient, application: AsyncClient, router: AsyncRouter, secret: str) -> None:
        self._vulnerable = vulnerable
        self._application = application
        self._router = router
        self._secret = secret

    async def attack(self, scenes: Sequence[Scene]) -> list[Attack]:
        """Try everything in every scene."""
        attacks = [Attack(each.name, each.title) for each in INJECTIONS]
        for attack, injection in zip(attacks, INJECTIONS, strict=True):
            for scene in scenes:
                sent = injection.text(scene)
                if sent is not None:
                    answer = await self._inject(scene, sent)
                    attack.outcomes.append(_judge(scene, sent, answer, injection.refusal))
        return [*attacks, *[await self._others(name, title, scenes) for name, title in _OTHERS]]

    async def _others(self, name: str, title: str, scenes: Sequence[Scene]) -> Attack:
        attack = Attack(name, title)
        for scene in scenes:
            sent, answer, refusal = await getattr(self, f"_{name.replace('-', '_')}")(scene)
            attack.outcomes.append(_judge(scene, sent, answer, refusal))
        return attack

    async def _inject(self, scene: Scene, text: str) -> Answer:
        response = await self._vulnerable.get(PATH, params={"q": text}, headers=_host(scene.attacker))
        body = response.json()
        if response.is_success:
            return _answered(scene, body["rows"])
        return Answer(str(body.get("sqlstate") or body.get("code")), str(body.get("message")))

    async def _login(self, scene: Scene) -> tuple[str, Answer, str]:
        """With the application's own login, but without a token."""
        statement = f"SELECT {ROWS}"
        target = self._router.target(scene.attacker.tenant, await self._router.view.fleet())
        async with await psycopg.AsyncConnection.connect(target.dsn) as conn:
            schema = scene.attacker.tenant.placement.schema if scene.attacker.tenant.placement else ""
            await conn.execute("SELECT set_config('search_path', %s, true)", (schema,))
            try:
                found = await (await conn.execute(statement)).fetchall()
            except psycopg.Error as error:
                return statement, Answer(error.sqlstate, error.diag.message_primary or ""), DENIED
        return statement, _answered(scene, [{"company_id": row[0]} for row in found]), DENIED

    async def _other_host(self, scene: Scene) -> tuple[str, Answer, str]:
        """A good token of the attacker's, on the host of the victim."""
        token = self._jwt(scene.attacker.tenant.slug, self._secret)
        headers = {**_host(scene.victim), "authorization": f"Bearer {token}"}
        sent = f"GET {scene.victim.tenant.slug}.{DOMAIN}/api/campaigns with a token of {scene.attacker.tenant.slug}"
        return sent, await self._get("/api/campaigns", headers, scene), "conflicting-tenants"

    async def _other_header(self, scene: Scene) -> tuple[str, Answer, str]:
        headers = {**_host(scene.attacker), "x-tenant": scene.victim.tenant.slug}
        sent = f"GET {scene.attacker.tenant.slug}.{DOMAIN}/api/campaigns with X-Tenant: {scene.victim.tenant.slug}"
        return sent, await self._get("/api/campaigns", headers, scene), "conflicting-tenants"

    async def _own_token(self, scene: Scene) -> tuple[str, Answer, str]:
        """A token that the attacker has signed."""
        token = self._jwt(scene.victim.tenant.slug, "a secret that the attacker has made up")
        headers = {"authorization": f"Bearer {token}"}
        sent = f"GET /api/campaigns with a token for {scene.victim.tenant.slug}, signed by the attacker"
        return sent, await self._get("/api/campaigns", headers, scene), "invalid-claim"

    async def _guessed_id(self, scene: Scene) -> tuple[str, Answer, str]:
        number = scene.victim.company.rows["campaigns"][0]["id"]
        path = f"/api/campaigns/{number}"
        sent = f"GET {scene.attacker.tenant.slug}.{DOMAIN}{path}, which is a campaign of {scene.victim.tenant.slug}"
        return sent, await self._get(path, _host(scene.attacker), scene), "404"

    async def _get(self, path: str, headers: dict[str, str], scene: Scene) -> Answer:
        response = await self._application.get(path, headers=headers)
        body = response.json()
        if response.is_success:
            return _answered(scene, body if isinstance(body, list) else [body])
        return Answer(str(body.get("code", response.status_code)), str(body.get("message") or body.get("detail")))

    def _jwt(self, slug: str, secret: str) -> str:
        claims = {"tenant": slug, "iss": ISSUER, "aud": AUDIENCE, "exp": int(time.time()) + 60}
        return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(secret))


_OTHERS = (
    ("login", "Log in with the application's password"),
    ("other-host", "Take a token to another host"),
    ("other-header", "Name a neighbour in a header"),
    ("own-token", "Sign a token for a neighbour"),
    ("guessed-id", "Guess the number of a campaign"),
)


def scenes(residents: Sequence[Resident]) -> Iterator[Scene]:
    """One for each level: its first company attacks a company of shared tables, or the next one there."""
    pooled = [each for each in residents if each.level == "pooled"]
    for level in dict.fromkeys(each.level for each in residents):
        attacker = next(each for each in residents if each.level == level)
        victim = next(each for each in pooled if each is not attacker)
        yield Scene(attacker, victim, _neighbour(attacker, residents))


def _neighbour(attacker: Resident, residents: Sequence[Resident]) -> str | None:
    here = attacker.tenant.placement
    places = [each.tenant.placement for each in residents]
    schemas = [
        place.schema
        for place in places
        if here and place and (place.shard, place.database) == (here.shard, here.database)
    ]
    return next((schema for schema in schemas if here and schema != here.schema), None)


def _host(resident: Resident) -> dict[str, str]:
    return {"host": f"{resident.tenant.slug}.{DOMAIN}"}


def _answered(scene: Scene, rows: Sequence[dict[str, Any]]) -> Answer:
    foreign = sum(row.get("company_id") != scene.own for row in rows)
    said = "no rows" if not rows else f"{len(rows)} rows, {foreign or 'none'} of them another company's"
    return Answer(None, said, len(rows), foreign)


def _judge(scene: Scene, sent: str, answer: Answer, refusal: str | None) -> Outcome:
    held = answer.refusal == refusal and answer.foreign == 0
    slugs = scene.attacker.tenant.slug, scene.victim.tenant.slug
    return Outcome(scene.attacker.level, *slugs, sent, answer, held)
