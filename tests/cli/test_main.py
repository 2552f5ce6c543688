"""What holds for every command: help, exit codes, errors in one form, no traceback."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys

import psycopg
import pytest
from typer.main import get_command

from tenantry.cli import app as cli
from tenantry.cli import failures
from tests.cli.conftest import COMMAND, Answer, Run, Start, finish
from tests.fixtures.house import House

COMMANDS = dict(cli.commands())


def test_the_help_lists_every_command_without_importing_what_they_need() -> None:
    code = (
        "import sys; from tenantry.cli import main; assert main(['--help']) == 0;"
        "heavy = ['sqlalchemy', 'fastapi', 'alembic', 'tenantry.service', 'tenantry.operations'];"
        "print([name for name in heavy if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
    for name, entry in cli.ENTRIES.items():
        assert re.search(rf"^│ {name} +{re.escape(entry.help.split()[0])}", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_help_an_example_that_parses_and_json(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    assert "--json" in {option for parameter in command.params for option in parameter.opts}
    examples = re.findall(r"^\$ tenantry (.*)$", command.epilog or "", re.MULTILINE)
    assert examples
    for example in examples:
        words = shlex.split(example.partition(" < ")[0].partition(" > ")[0])
        assert words[: len(name.split())] == name.split()
        command.make_context(name, words[len(name.split()) :])  # raises if an option or argument is wrong


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_and_argument_says_what_it_is(name: str) -> None:
    silent = [parameter.name for parameter in COMMANDS[name].params if not getattr(parameter, "help", None)]
    assert silent == []


def test_the_list_of_commands_says_what_their_own_help_says() -> None:
    for name, entry in cli.ENTRIES.items():
        command = cli.load(name)
        if entry.panel == cli.HOUSE:
            assert command.help.startswith(entry.help), name
        else:
            verbs = entry.help.partition(": ")[2].rstrip(".").split(", ")
            assert verbs == list(command.commands), name


def test_help_is_help_at_every_level(run: Run) -> None:
    assert "--from-file" in run("tenant", "create", "--help").out
    assert "create" in run("tenant", "--help").out
    bare = run()
    assert (bare.code, "tenant" in bare.out, bare.err) == (2, True, "")


@pytest.mark.parametrize(
    ("arguments", "message", "where"),
    [
        (("tenent",), "there is no command 'tenent'; did you mean 'tenant'?", "tenantry"),
        (("tenant", "shwo"), "no such command 'shwo'. Did you mean 'show'?", "tenantry tenant"),
        (("tenant", "show"), "missing argument 'SLUG'", "tenantry tenant show"),
        (("tenant", "show", "a", "b"), "got unexpected extra argument(s) (b)", "tenantry tenant show"),
        (("plan", "create", "x", "--weight", "heavy"), "invalid value for '--weight'", "tenantry plan create"),
        (("--fast", "doctor"), "no such option: --fast", "tenantry"),
    ],
)
def test_a_wrong_command_line_is_an_error_like_any_other(
    run: Run, arguments: tuple[str, ...], message: str, where: str
) -> None:
    answer = run(*arguments)
    first, *rest = answer.err.splitlines()
    assert (answer.code, answer.out) == (2, "")
    assert first.startswith(f"error[usage]: {message}")
    assert rest == [f"  where:  {where}", f"  next:   see '{where} --help'"]


def test_with_json_an_error_is_one_json_document_on_standard_error(run: Run) -> None:
    answer = run("tenant", "list", "--json")
    assert (answer.code, answer.out) == (2, "")
    assert json.loads(answer.err)["error"] == {
        "code": "invalid-settings",
        "message": "setting 'catalog': Field required",
        "where": "tenantry.toml",
        "hint": "set it there or as TENANTRY_CATALOG in the environment; 'tenantry init' writes a first file",
        "exit_code": 2,
    }


def test_a_json_flag_behind_two_dashes_is_no_flag(run: Run) -> None:
    assert run("tenant", "show", "--", "--json").err.startswith("error[invalid-")


def test_another_file_of_settings_can_be_named(run: Run) -> None:
    assert "where:  prod.toml" in run("--config", "prod.toml", "tenant", "list").err


def test_python_m_tenantry_is_the_same_command(start: Start) -> None:
    assert finish(start("version", "--json")).json["tenantry"]


def test_an_error_that_nobody_expected_says_so_and_shows_its_traceback_when_asked(
    run: Run, at: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: object, **__: object) -> None:
        raise ZeroDivisionError("too small")

    monkeypatch.setattr("tenantry.service.tenant.show", explode)
    answer = run("tenant", "show", "acme")
    assert (answer.code, answer.err.splitlines()[0]) == (70, "error[internal]: ZeroDivisionError: too small")
    assert "next:   this is a bug: run it again as 'tenantry --debug ...'" in answer.err
    assert "Traceback" not in answer.err
    assert "Traceback" in run("--debug", "tenant", "show", "acme").err


def test_a_reader_that_goes_away_ends_the_command_in_silence(run: Run, at: House, start: Start) -> None:
    content = "slug\n" + "".join(f"pipe-{number}\n" for number in range(2000))
    assert run("tenant", "create", "--from-file", "-", stdin=content).code == 0
    reading, writing = os.pipe()
    process = start("tenant", "list", stdout=writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.readline().startswith(b"SLUG")
    answer = finish(process)
    assert (answer.code, answer.err) == (failures.BROKEN_PIPE, "")


def test_ctrl_c_ends_a_command_with_130_and_no_traceback(at: House, start: Start) -> None:
    process = start("sql", "pooled-a", "-c", "SELECT pg_sleep(60)")
    wait_for_query(at, "SELECT pg_sleep(60)")
    process.send_signal(signal.SIGINT)
    answer = finish(process)
    assert (answer.code, answer.err.splitlines()[0]) == (130, "error[interrupted]: interrupted")
    assert "Traceback" not in answer.err


def wait_for_query(house: House, text: str) -> None:
    """Wait until a session runs this."""
    with psycopg.connect(house.servers[0].dsn(), autocommit=True) as conn:
        query = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = %s"
        while conn.execute(query, (text,)).fetchone() == (0,):
            continue


def test_a_server_that_ends_the_connection_is_no_traceback(at: House, start: Start) -> None:
    process = start("sql", "pooled-a", "-c", "SELECT pg_sleep(61)")
    wait_for_query(at, "SELECT pg_sleep(61)")
    with psycopg.connect(at.servers[0].dsn(), autocommit=True) as conn:
        conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(61)'")
    answer = finish(process)
    assert answer.err.startswith("error[57P01]: terminating connection due to administrator command")
    assert (answer.code, "Traceback" in answer.err) == (5, False)


def test_output_in_another_encoding_is_escaped_not_refused(at: House, run: Run) -> None:
    run("tenant", "create", "kyoto", "--name", "京都")
    process = subprocess.run(
        [*COMMAND, "tenant", "show", "kyoto"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=False,
    )
    answer = Answer(process.returncode, process.stdout, process.stderr)
    assert (answer.code, "\\u4eac\\u90fd" in answer.out) == (0, True)


def test_what_a_name_holds_does_not_steer_the_terminal(run: Run, at: House) -> None:
    with psycopg.connect(at.control_settings.control_dsn, autocommit=True) as conn:
        run("tenant", "create", "escape", "--name", "plain")
        conn.execute("UPDATE tenantry_catalog.tenants SET name = %s WHERE slug = 'escape'", ("\x1b[2J\u202eevil",))
    assert "\\x1b[2J\\u202eevil" in run("tenant", "show", "escape").out
    assert "\x1b" not in run("tenant", "list").out


def test_a_shell_is_told_what_may_come_next() -> None:
    env = {**os.environ, "_TENANTRY_COMPLETE": "complete_bash", "COMP_WORDS": "tenantry tenant su", "COMP_CWORD": "2"}
    done = subprocess.run([*COMMAND], capture_output=True, text=True, env=env, check=False)
    assert done.stdout.split() == ["suspend"], done.stderr


def test_the_top_level_app_is_one_that_typer_knows() -> None:
    assert get_command(cli.app).name == cli.PROGRAM
