"""The operating-system user that a local server runs as.

PostgreSQL refuses to run as root. Where we are root, its programs run as ``nobody``; and because ``nobody`` may write
in the server's folder, everything that happens in there happens as ``nobody`` too: a link planted there can't lead root
astray.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import select
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tenantry.errors import ServerUnsuitable

UNPRIVILEGED = "nobody"

# Nothing else is handed on: PGHOST and its like would mislead the programs, and the rest may hold secrets.
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


@dataclass(frozen=True)
class Account:
    """Who runs the server: ourselves, or ``nobody`` where we are root."""

    uid: int
    gid: int
    is_other: bool

    @classmethod
    def choose(cls) -> Account:
        """The account for servers that this process starts.

        Raises:
            ServerUnsuitable: we are root and there is no unprivileged user.
        """
        if os.geteuid() != 0:
            return cls(os.geteuid(), os.getegid(), is_other=False)
        try:
            entry = pwd.getpwnam(UNPRIVILEGED)
        except KeyError:
            raise ServerUnsuitable(
                f"PostgreSQL does not run as root, and there is no user '{UNPRIVILEGED}' to run it",
                hint="run Tenantry as an ordinary user, or name a running server by its DSN",
            ) from None
        account = cls(entry.pw_uid, entry.pw_gid, is_other=True)
        try:
            account.run("true")
        except OSError as error:
            raise ServerUnsuitable(
                f"PostgreSQL does not run as root, and this root may not become '{UNPRIVILEGED}': {error.strerror}",
                hint="run Tenantry as an ordinary user, or name a running server by its DSN",
            ) from None
        return account

    def run(
        self, *argv: str | Path, cwd: Path | str = "/", text: str = "", seconds: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program as this account, without a shell; its exit code is for the caller to judge.

        Args:
            argv: the program and its arguments.
            cwd: the working directory; the account need not be able to walk there.
            text: what the program reads from its standard input.
            seconds: how long it may take; None: for ever.
        """
        return subprocess.run(
            [str(part) for part in argv],
            cwd=cwd,
            input=text,
            timeout=seconds,
            env=self.environment(),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            user=self.uid if self.is_other else None,
            group=self.gid if self.is_other else None,
            extra_groups=[] if self.is_other else None,
        )

    def can_enter(self, folder: Path) -> bool:
        """Whether the account can walk into a folder, through all of its parents."""
        return not self.is_other or self.run("test", "-x", folder).returncode == 0

    def kill(self, pid: int) -> None:
        """Kill one of the account's processes and its children (SIGKILL), and wait until they are gone.

        Nothing happens to a process of another user.
        """
        if not self._signal(signal.SIGSTOP, pid):  # a stopped parent gets no more children
            return
        family = [pid, *_children(pid)]
        self._signal(signal.SIGKILL, *family)
        for member in family:
            wait_for_end(member)

    def _signal(self, number: signal.Signals, *pids: int) -> bool:
        done = self.run("sh", "-c", 'kill "$@"', "sh", f"-{number.value}", *(str(pid) for pid in pids))
        return done.returncode == 0

    def environment(self) -> dict[str, str]:
        """What the programs of the server get of our environment."""
        kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        return {"PATH": "/usr/bin:/bin", **kept, "LC_ALL": "C", "TZ": "UTC"}


def owned_folder(path: Path, mode: int) -> Path:
    """Make a folder for shared things, or make sure that nobody else can have put something there.

    Raises:
        OSError: it can't be made, is a link, belongs to another user, or others may write in it.
    """
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(f"{path} must be a folder that only this user can write to")
    path.chmod(mode)
    return path


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file; waits until nobody else does. It is freed even when the process is killed."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _children(pid: int) -> list[int]:
    """Processes whose parent is ``pid``; empty where there is no /proc: there they notice by themselves."""
    found = []
    for stat_file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # "pid (name) state parent ...": the name may hold anything, also brackets
            if int(stat_file.read_text(errors="replace").rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat_file.parent.name))
    return found


def wait_for_end(pid: int, seconds: float = 30.0) -> bool:
    """Wait until a process is gone, or a zombie. Any process will do, not only a child.

    Returns:
        Whether it is gone; False after so many seconds.
    """
    try:
        if not hasattr(os, "pidfd_open"):
            return _poll_for_end(pid, seconds)
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], seconds)[0])
    finally:
        os.close(handle)


def _poll_for_end(pid: int, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        os.kill(pid, 0)
        time.sleep(0.01)
    return False
