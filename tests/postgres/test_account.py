from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from tenantry.errors import ServerUnsuitable
from tenantry.postgres import account as module
from tenantry.postgres.account import Account, locked, owned_folder, wait_for_end
from tests.postgres.helpers import as_root, is_root


@pytest.fixture
def account() -> Account:
    return Account.choose()


def test_programs_run_without_rights(account: Account) -> None:
    assert account.run("id", "-u").stdout.strip() == str(account.uid)
    assert account.uid != 0
    assert account.is_other is is_root


@as_root
def test_programs_do_not_keep_the_groups_of_root(account: Account) -> None:
    assert account.run("id", "-G").stdout.split() == [str(account.gid)]


def test_programs_see_nothing_of_our_environment(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "elsewhere")
    monkeypatch.setenv("SECRET", "s3cret")
    monkeypatch.setenv("LANG", "tlh")
    shown = {line.partition("=")[0] for line in account.run("env").stdout.splitlines()}
    assert shown <= {"PATH", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PWD", "SHLVL", "_"}


def test_programs_read_what_they_are_given(account: Account) -> None:
    assert account.run("cat", text="grüße\n").stdout == "grüße\n"


@as_root
def test_without_an_unprivileged_user_root_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNPRIVILEGED", "no-such-user")
    with pytest.raises(ServerUnsuitable, match="no user 'no-such-user'"):
        Account.choose()


@as_root
def test_a_closed_parent_can_not_be_entered(account: Account, open_folder: Path) -> None:
    inner = open_folder / "closed" / "inner"
    inner.mkdir(parents=True, mode=0o755)
    assert account.can_enter(inner)
    inner.parent.chmod(0o700)
    assert not account.can_enter(inner)


class TestKill:
    def family(self, account: Account) -> tuple[subprocess.Popen[str], int]:
        options = {"user": account.uid, "group": account.gid, "extra_groups": []} if account.is_other else {}
        command = ["sh", "-c", "sleep 60 & echo $!; wait"]
        parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd="/", **options)  # type: ignore[call-overload]
        assert parent.stdout is not None
        return parent, int(parent.stdout.readline())

    @pytest.mark.parametrize("pidfd", [True, False])
    def test_a_process_and_its_children_are_gone_afterwards(
        self, account: Account, pidfd: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not pidfd:
            monkeypatch.delattr(os, "pidfd_open", raising=False)
        parent, child = self.family(account)
        reaper = threading.Thread(target=parent.wait)
        reaper.start()
        with parent:
            account.kill(parent.pid)
            reaper.join()
            assert parent.returncode == -signal.SIGKILL
            assert wait_for_end(child, 0.1)

    def test_a_process_that_is_gone_is_no_error(self, account: Account) -> None:
        with subprocess.Popen(["true"]) as gone:
            gone.wait()
        account.kill(gone.pid)

    @as_root
    def test_a_process_of_another_user_is_left_alone(self, account: Account) -> None:
        with subprocess.Popen(["sleep", "60"]) as ours:
            account.kill(ours.pid)
            assert ours.poll() is None
            assert not wait_for_end(ours.pid, 0)
            ours.kill()


class TestOwnedFolder:
    def test_it_is_made_with_its_mode_whatever_the_umask(self, tmp_path: Path) -> None:
        before = os.umask(0o077)
        try:
            made = owned_folder(tmp_path / "a" / "b", 0o711)
        finally:
            os.umask(before)
        assert stat.S_IMODE(made.stat().st_mode) == 0o711

    def test_what_is_in_it_stays(self, tmp_path: Path) -> None:
        (owned_folder(tmp_path / "a", 0o755) / "file").touch()
        assert (owned_folder(tmp_path / "a", 0o755) / "file").exists()

    @pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
    def test_one_that_others_may_write_in_is_refused(self, tmp_path: Path, mode: int) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "a").chmod(mode)
        with pytest.raises(PermissionError):
            owned_folder(tmp_path / "a", 0o755)

    def test_a_link_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to("real")
        with pytest.raises(PermissionError):
            owned_folder(tmp_path / "link", 0o755)


def test_a_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    def take_it() -> None:
        with (tmp_path / "lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    with locked(tmp_path / "lock"), pytest.raises(BlockingIOError):
        take_it()
    take_it()


def test_a_lock_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic links"), locked(tmp_path / "lock"):
        pass
    assert not (tmp_path / "target").exists()
