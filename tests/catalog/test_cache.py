"""The view's memory, against a model that is too simple to be wrong."""

from __future__ import annotations

import tracemalloc
from collections.abc import Hashable
from threading import Barrier, Thread
from uuid import UUID

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from tenantry.catalog.cache import ABSENT_LENGTH, ABSENT_SECONDS, FRESH_SECONDS, Name, TenantCache
from tenantry.model import Isolation, Placement, Tenant, TenantState

SIZE = 3
STALE_SECONDS = 30.0


def made(number: int, slug: str = "acme", state: TenantState = TenantState.ACTIVE, epoch: int = 1) -> Tenant:
    placement = Placement("main", "app", "public", Isolation.POOLED, epoch)
    return Tenant(UUID(int=number), number, slug, slug, "free", state, placement)


names = st.one_of(
    st.tuples(st.just("slug"), st.sampled_from(["acme", "beta", "gamma"])),
    st.tuples(st.just("domain"), st.sampled_from(["a.example", "b.example"])),
    st.tuples(st.just("key"), st.integers(1, 5)),
    st.tuples(st.just("id"), st.integers(1, 5).map(lambda number: UUID(int=number))),
)
Question = tuple[Name, int, float, int]


class Model(RuleBasedStateMachine):
    """Questions are asked, answered later or never, and news comes in between.

    Attributes:
        known: the newest answer of each tenant, least recently used first.
        names: who was the answer to which name, and when it was asked.
        absent: the names that nobody had, and when it was asked.
        last_news: when the last news came; an answer to an earlier question is worth nothing.
    """

    questions = Bundle[Question]("questions")

    def __init__(self) -> None:
        super().__init__()
        self.cache = TenantCache(SIZE, STALE_SECONDS)
        self.now = 0.0
        self.events = 0
        self.last_news = 0
        self.asked_at: dict[int, int] = {}
        self.known: dict[UUID, Tenant] = {}
        self.names: dict[Name, tuple[UUID, float]] = {}
        self.absent: dict[Name, float] = {}

    @rule(target=questions, name=names)
    def ask(self, name: Name) -> Question:
        self.events += 1
        return name, self.cache.mark, self.now, self.events

    @rule(
        question=consumes(questions),
        number=st.integers(1, 5),
        slug=st.sampled_from(["acme", "beta", "gamma"]),
        state=st.sampled_from([TenantState.ACTIVE, TenantState.DELETED]),
        epoch=st.integers(1, 1000),
    )
    def answer(self, question: Question, number: int, slug: str, state: TenantState, epoch: int) -> None:
        (kind, value), mark, asked, event = question
        if isinstance(value, UUID):
            number = value.int
        elif isinstance(value, int):
            number = value
        elif isinstance(value, str) and kind == "slug":
            slug = value
        tenant = made(number, slug, TenantState.ACTIVE if kind == "slug" else state, epoch)
        self.cache.put((kind, value), tenant, asked, mark)
        if event < self.last_news:
            return
        self.absent.pop((kind, value), None)
        for name, (owner, _) in list(self.names.items()):
            outdated = name[0] == "slug" and (name[1] != slug or tenant.state is TenantState.DELETED)
            if name == (kind, value) or (owner == tenant.id and outdated):
                del self.names[name]
        self.known.pop(tenant.id, None)
        self.known[tenant.id] = tenant
        self.names[kind, value] = self.names["id", tenant.id] = tenant.id, asked
        if len(self.known) > SIZE:
            self._drop(next(iter(self.known)))

    @rule(question=consumes(questions))
    def answer_nobody(self, question: Question) -> None:
        name, mark, asked, event = question
        self.cache.put_absent(name, asked, mark)
        if event < self.last_news:
            return
        self.names.pop(name, None)
        self.absent.pop(name, None)
        self.absent[name] = asked
        if len(self.absent) > SIZE:
            del self.absent[next(iter(self.absent))]

    @rule(number=st.integers(1, 5))
    def hear_of_a_tenant(self, number: int) -> None:
        self.cache.forget(UUID(int=number))
        self._news()
        self._drop(UUID(int=number))

    @rule()
    def hear_of_somebody_new(self) -> None:
        self.cache.forget_absent()
        self._news()
        self.absent.clear()

    @rule(again=st.booleans())
    def lose_everything(self, again: bool) -> None:
        if again:
            self.cache.start_over()
        else:
            self.cache.clear()
        self._news()
        for model in (self.known, self.names, self.absent):
            model.clear()

    @rule(listening=st.booleans())
    def listen(self, listening: bool) -> None:
        self.cache.listening = listening

    @rule(seconds=st.sampled_from([0.5, ABSENT_SECONDS, STALE_SECONDS, STALE_SECONDS + 1, FRESH_SECONDS]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(name=names, stale=st.booleans())
    def get(self, name: Name, stale: bool) -> None:
        found = self.cache.get(name, self.now, stale=stale)
        owner, since = self.names.get(name, (None, 0.0))
        bound = FRESH_SECONDS if self.cache.listening else STALE_SECONDS
        if owner is None or not (stale or self.now - since <= bound):
            assert found is None
        else:
            assert found == self.known[owner]
            self.known[owner] = self.known.pop(owner)

    @rule(name=names)
    def is_absent(self, name: Name) -> None:
        since = self.absent.get(name)
        assert self.cache.is_absent(name, self.now) == (since is not None and self.now - since <= ABSENT_SECONDS)

    @invariant()
    def it_is_bounded(self) -> None:
        assert len(self.cache) == len(self.known) <= SIZE
        assert len(self.cache._absent) == len(self.absent) <= SIZE
        assert self.cache._names == self.names

    def _news(self) -> None:
        self.events += 1
        self.last_news = self.events

    def _drop(self, tenant_id: UUID) -> None:
        self.known.pop(tenant_id, None)
        self.names = {name: found for name, found in self.names.items() if found[0] != tenant_id}


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=100)


def test_an_answer_that_was_asked_for_before_the_news_is_not_kept() -> None:
    cache = TenantCache(SIZE, STALE_SECONDS)
    mark = cache.mark
    cache.forget(UUID(int=1))
    cache.put(("slug", "acme"), made(1), 0.0, mark)
    assert cache.get(("slug", "acme"), 0.0) is None
    cache.put_absent(("slug", "beta"), 0.0, mark)
    assert not cache.is_absent(("slug", "beta"), 0.0)


def test_asking_by_one_name_does_not_make_another_name_any_fresher() -> None:
    """Or a domain that is somebody else's by now would lead to the tenant that had it, as long as that one works."""
    cache = TenantCache(SIZE, STALE_SECONDS)
    cache.put(("domain", "a.example"), made(1), 0.0, cache.mark)
    for now in (20.0, 40.0):
        cache.put(("slug", "acme"), made(1), now, cache.mark)
    assert cache.get(("domain", "a.example"), 40.0) is None
    assert cache.get(("slug", "acme"), 40.0) == made(1)


def test_a_slug_that_a_tenant_has_no_more_is_forgotten_as_soon_as_that_is_known() -> None:
    cache = TenantCache(SIZE, STALE_SECONDS)
    cache.put(("slug", "acme"), made(1, "acme"), 0.0, cache.mark)
    cache.put(("key", 1), made(1, "renamed"), 0.0, cache.mark)
    assert cache.get(("slug", "acme"), 0.0, stale=True) is None


def test_a_very_long_name_is_not_remembered_as_absent() -> None:
    cache = TenantCache(SIZE, STALE_SECONDS)
    for length, kept in ((ABSENT_LENGTH, True), (ABSENT_LENGTH + 1, False)):
        cache.put_absent(("domain", "x" * length), 0.0, cache.mark)
        assert cache.is_absent(("domain", "x" * length), 0.0) == kept


def test_a_flood_of_unknown_names_takes_no_more_memory_than_its_bound() -> None:
    size = 1000
    cache = TenantCache(size, STALE_SECONDS)
    tracemalloc.start()
    try:
        for number in range(20 * size):
            cache.put_absent(("domain", f"{number:0{ABSENT_LENGTH}}"), 0.0, cache.mark)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < size * 1000


def test_threads_that_use_it_at_once_leave_it_whole() -> None:
    cache = TenantCache(SIZE, STALE_SECONDS)
    start = Barrier(4)
    errors: list[BaseException] = []

    def use(offset: int) -> None:
        start.wait(10)
        try:
            for number in range(3000):
                which = (number * offset) % 7 + 1
                name: tuple[str, Hashable] = ("key", which) if number % 2 else ("slug", f"s{which}")
                cache.put(name, made(which, f"s{which}"), 0.0, cache.mark)
                found = cache.get(name, 0.0)
                assert found is None or found.key == which
                if number % 5 == 0:
                    cache.forget(UUID(int=which))
        except BaseException as error:
            errors.append(error)

    threads = [Thread(target=use, args=(offset,)) for offset in (1, 2, 3, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    assert len(cache) <= SIZE
    assert {owner for owner, _ in cache._names.values()} == set(cache._tenants)
