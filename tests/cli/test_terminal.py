"""What somebody at a terminal sees: a pseudo-terminal with the real command at its other end."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psycopg
import pytest

from tests.cli.conftest import COMMAND, Run
from tests.fixtures.house import House

pytestmark = pytest.mark.usefixtures("at")

_STEERING = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A command with a terminal as its input and output."""

    def __init__(self, process: subprocess.Popen[bytes], side: int) -> None:
        self.process = process
        self.text = ""
        self.raw = ""
        self._side = side
        self._seen = 0

    def type(self, text: str) -> None:
        """Type this, followed by Return."""
        os.write(self._side, text.encode() + b"\n")

    def press(self, key: str) -> None:
        """Press Ctrl and this."""
        os.write(self._side, bytes([ord(key.upper()) - 64]))

    def wait_for(self, words: str) -> str:
        """Wait until this is shown, after what was waited for last; returns all up to it."""
        while (found := self.text.find(words, self._seen)) < 0:
            assert self._read(), f"{words!r} was never shown after {self.text[self._seen :]!r}"
        shown, self._seen = self.text[self._seen : found], found + len(words)
        return shown

    def end(self) -> int:
        """Wait for the end of the command; its exit code."""
        while self._read():
            continue
        return self.process.wait()

    def _read(self) -> bool:
        with suppress(OSError):  # how Linux says that nobody has the other side open any more
            if data := os.read(self._side, 65536):
                self.raw += data.decode()
                self.text = _STEERING.sub("", self.raw).replace("\r", "")
                return True
        return False


Open = Callable[..., Terminal]


@pytest.fixture
def terminal() -> Iterator[Open]:
    """Run a command at a terminal; it is killed if it outlives the test."""
    with ExitStack() as stack:

        def call(*arguments: str, **options: object) -> Terminal:
            ours, theirs = pty.openpty()
            stack.callback(os.close, ours)
            streams: dict[str, object] = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
            env = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
            process = subprocess.Popen(
                [*COMMAND, *arguments], env=env, start_new_session=True, preexec_fn=_take, **{**streams, **options}
            )  # type: ignore[call-overload]
            os.close(theirs)
            stack.enter_context(process)
            stack.callback(process.kill)
            return Terminal(process, ours)

        yield call


def _take() -> None:
    """Make standard input the controlling terminal, so that Ctrl-C is a signal."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_deleting_shows_the_tenant_and_asks_for_its_slug(run: Run, terminal: Open) -> None:
    run("tenant", "create", "doomed", "--name", "Doomed Ltd")
    shown = terminal("tenant", "delete", "doomed", "--grace", "0")
    assert "Doomed Ltd" in shown.wait_for("All its data will be deleted. Type its slug to go on: ")
    shown.type("doomed")
    shown.wait_for("deleted tenant doomed: nothing of it is left")
    assert shown.end() == 0
    assert run("tenant", "show", "doomed").code == 3


@pytest.mark.parametrize("typed", ["", "yes", "Spared"])
def test_anything_but_the_slug_deletes_nothing(run: Run, terminal: Open, typed: str) -> None:
    run("tenant", "create", "spared")
    shown = terminal("tenant", "delete", "spared", "--grace", "0")
    shown.wait_for("go on: ")
    shown.type(typed)
    shown.wait_for("error[aborted]: nothing was done")
    assert shown.end() == 130
    assert run("tenant", "show", "spared", "--json").json["state"] == "active"


def test_ctrl_c_at_the_question_deletes_nothing(run: Run, terminal: Open) -> None:
    shown = terminal("tenant", "delete", "pooled-a")
    shown.wait_for("go on: ")
    shown.press("c")
    shown.wait_for("error[interrupted]")
    assert shown.end() == 130
    assert run("tenant", "show", "pooled-a", "--json").json["state"] == "active"


def test_sql_is_a_conversation(terminal: Open) -> None:
    shown = terminal("sql", "pooled-a")
    shown.wait_for("pooled-a=> ")
    shown.type("SELECT 6 *")
    shown.wait_for("pooled-a-> ")
    shown.type("7 AS answer;")
    shown.wait_for("answer\n42\n(1 row)\n")
    shown.type("SELEC 1;")
    shown.wait_for('error[42601]: syntax error at or near "SELEC"')
    shown.wait_for("pooled-a=> ")
    shown.type("\\?")
    shown.wait_for("ends a statement")
    shown.type("\\q")
    assert shown.end() == 0


def test_a_transaction_stays_open_and_bound_between_statements(run: Run, terminal: Open) -> None:
    shown = terminal("sql", "schema-a")
    for typed, seen in (
        ("BEGIN;", "BEGIN\nschema-a*=> "),
        ("INSERT INTO orders (note) VALUES ('kept');", "INSERT 0 1\nschema-a*=> "),
        ("COMMIT;", "COMMIT\nschema-a=> "),
        ("BEGIN;", "schema-a*=> "),
        ("INSERT INTO orders (note) VALUES ('dropped');", "INSERT 0 1\n"),
        ("ROLLBACK;", "ROLLBACK\nschema-a=> "),
        ("BEGIN;", "schema-a*=> "),
        ("INSERT INTO orders (note) VALUES ('broken');", "INSERT 0 1\n"),
        ("SELECT 1/0;", "division by zero"),
        ("SELECT 1;", "current transaction is aborted"),
        ("COMMIT;", "ROLLBACK\nschema-a=> "),
        ("BEGIN;", "schema-a*=> "),
        ("INSERT INTO orders (note) VALUES ('left');", "INSERT 0 1\n"),
    ):
        shown.type(typed)
        shown.wait_for(seen)
    shown.type("\\q")
    assert shown.end() == 0
    assert run("sql", "schema-a", "--csv", "-c", "SELECT note FROM orders").out == "note\nkept\n"


def test_ctrl_c_cancels_the_statement_and_not_the_conversation(at: House, terminal: Open) -> None:
    shown = terminal("sql", "pooled-a")
    shown.wait_for("=> ")
    shown.type("SELECT pg_sleep(62);")
    with psycopg.connect(at.servers[0].dsn(), autocommit=True) as conn:
        query = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep(62)%'"
        while conn.execute(query).fetchone() == (0,):
            continue
        shown.press("c")
        shown.wait_for("cancelled\n")
        while conn.execute(query).fetchone() != (0,):
            continue
    shown.type("SELECT 'alive' AS still;")
    shown.wait_for("still\nalive\n")
    shown.type("SELECT 'half")
    shown.wait_for("-> ")
    shown.press("c")
    shown.wait_for("pooled-a=> ")
    shown.press("d")
    assert shown.end() == 0


def test_an_operator_is_reminded_that_everybody_s_rows_are_open(terminal: Open) -> None:
    shown = terminal("sql", "--all-tenants", "--shard", "main", "--reason", "a test of the prompt")
    shown.wait_for("ALL TENANTS of main (read-only)=> ")
    shown.type("SELECT count(*) >= 0 AS reads FROM orders;")
    shown.wait_for("reads\nt\n")
    shown.type("DELETE FROM orders;")
    shown.wait_for("cannot execute DELETE in a read-only transaction")
    shown.type("\\q")
    assert shown.end() == 0


def test_what_was_typed_is_there_the_next_time_and_nobody_else_s_to_read(terminal: Open, tmp_path: Path) -> None:
    first = terminal("sql", "pooled-a")
    first.type("SELECT 'remembered';")
    first.type("\\q")
    assert first.end() == 0
    second = terminal("sql", "pooled-a")
    second.wait_for("pooled-a=> ")
    second.press("p")  # the line before, as the arrow key does
    second.press("p")
    second.wait_for("SELECT 'remembered';")
    second.type("")
    second.wait_for("(1 row)")
    second.type("\\q")
    assert second.end() == 0
    file = tmp_path / "state" / "tenantry" / "sql_history"
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_a_prompt_is_not_part_of_what_goes_into_a_file(terminal: Open, tmp_path: Path) -> None:
    file = tmp_path / "out.txt"
    with file.open("wb") as out:
        shown = terminal("sql", "pooled-a", stdout=out)
        shown.wait_for("pooled-a=> ")
        shown.type("SELECT 1 AS a;")
        shown.wait_for("pooled-a=> ")
        shown.press("d")
        assert shown.end() == 0
    assert file.read_text() == "a\n1\n(1 row)\n"


def test_errors_are_coloured_at_a_terminal_unless_somebody_minds(
    terminal: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = terminal("tenant", "show", "nobody-here")
    assert shown.end() == 3
    assert "\x1b[1;31merror[tenant-not-found]" in shown.raw
    monkeypatch.setenv("NO_COLOR", "1")
    plain = terminal("tenant", "show", "nobody-here")
    assert plain.end() == 3
    assert "\x1b[1;31m" not in plain.raw


def test_what_takes_longer_than_a_second_shows_what_it_is(at: House, terminal: Open) -> None:
    """The plan's row is locked, so that the command has to wait."""
    with psycopg.connect(at.control_settings.control_dsn) as conn:
        conn.execute("SELECT FROM tenantry_catalog.plans WHERE name = 'free' FOR UPDATE")
        shown = terminal("plan", "change", "free", "--weight", "1")
        shown.wait_for("changing the plan")
    shown.wait_for("plan free\n")
    assert shown.end() == 0


def test_thousands_of_tenants_show_a_bar(at: House, terminal: Open, tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("slug\n" + "".join(f"bar-{number}\n" for number in range(1200)))
    shown = terminal("tenant", "create", "--from-file", str(file))
    shown.wait_for("creating tenants")
    shown.wait_for("/1200")
    shown.wait_for("created 1,200 tenants\n")
    assert shown.end() == 0
