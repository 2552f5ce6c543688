"""The folder of a local server: what is in it, and who may touch what.

    DIRECTORY/           ours
        password         of the superuser, for TCP; mode 0600
        port             the port of the last start
        lock             held while a server is started or set up
        server/          of the account that runs the server; mode 0700, so nobody else gets to the socket
            data/        PostgreSQL's data directory
            socket/      the Unix socket
            log          of the last start; ``log.old`` of the one before

Where we are root and the account can't walk to DIRECTORY (below /root, for instance), ``server`` is a link to a folder
below /var/lib/tenantry: no permission of an existing folder is ever widened.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import secrets
import shutil
import socket
import stat
import subprocess
import tempfile
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tenantry.errors import InvalidInput, ServerUnreachable, ServerUnsuitable
from tenantry.postgres.account import Account, locked, owned_folder
from tenantry.postgres.binaries import Binaries

STORE = Path("/var/lib/tenantry")

# sizeof(sockaddr_un.sun_path) is 108 on Linux and 104 on macOS, with the closing zero byte.
_LONGEST_SOCKET = 103

_CONFIG = "tenantry.conf"

# The kernel vouches for the superuser on the socket (chapter "Peer Authentication"); everyone else shows a password.
_ACCESS = """\
# type  database     user      address       method
local   all          postgres                peer map=tenantry
local   replication  postgres                peer map=tenantry
local   all          all                     scram-sha-256
local   replication  all                     scram-sha-256
host    all          all       127.0.0.1/32  scram-sha-256
host    replication  all       127.0.0.1/32  scram-sha-256
"""


@dataclass(frozen=True)
class Postmaster:
    """What a running server wrote into ``postmaster.pid``."""

    pid: int
    port: int
    socket: str
    listens_on_tcp: bool
    is_ready: bool


class Cluster:
    """The folder of one local server.

    Args:
        directory: where to keep it; made if it is not there. None: a new temporary folder.
        account: who runs the server.

    Raises:
        InvalidInput: the directory can't be used, or others could meddle with it.
    """

    def __init__(self, directory: Path | None, account: Account) -> None:
        self.account = account
        self.is_temporary = directory is None
        self.home = _temporary_home(account) if directory is None else _kept_home(directory, account)
        try:
            with self.locked():
                self.server = self._server_folder()
        except BaseException as error:
            if self.is_temporary:
                shutil.rmtree(self.home, ignore_errors=True)
            if isinstance(error, OSError):
                raise _unusable(self.home, error) from None
            raise
        self.data = self.server / "data"
        self.log = self.server / "log"

    @property
    def folders(self) -> list[Path]:
        """What holds nothing but this server."""
        return [self.server, self.socket, *([self.home] if self.is_temporary else [])]

    @property
    def socket(self) -> Path:
        """The folder of the Unix socket: below ``server`` if its path is short and plain enough, else below /tmp."""
        inside = self.server / "socket"
        usable = len(os.fsencode(inside / ".s.PGSQL.65535")) <= _LONGEST_SOCKET
        if usable and "," not in str(inside) and str(inside).isprintable():
            return inside
        name = hashlib.sha256(os.fsencode(self.server)).hexdigest()[:16]
        return Path("/tmp") / f"tenantry-{self.account.uid}-{name}"  # noqa: S108 - made and checked in make_socket

    def make_socket(self) -> Path:
        """Make the socket's folder, reachable by nobody but the account.

        Raises:
            InvalidInput: somebody else's folder is in its place.
        """
        folder = self.socket
        self.run("mkdir", "-m", "700", folder)  # fails if it is there, which is as good
        _check_private(folder, self.account.uid)
        return folder

    @property
    def major(self) -> int | None:
        """The major version that the data belongs to; None before the first start."""
        try:
            return int((self.data / "PG_VERSION").read_text())
        except (FileNotFoundError, ValueError):
            return None

    @property
    def password(self) -> str:
        """The superuser's password.

        Raises:
            InvalidInput: its file is missing, or open to others.
        """
        path = self.home / "password"
        try:
            _check_private(path, os.geteuid())
            return path.read_text().strip()
        except FileNotFoundError:
            raise InvalidInput(
                "the file with the superuser's password is missing",
                where=str(path),
                hint="log in through the socket, set a new one with ALTER ROLE postgres PASSWORD, and write it there",
            ) from None

    @property
    def port(self) -> int | None:
        """The port of the last start, so that a DSN stays good; None before the first start."""
        try:
            return int((self.home / "port").read_text())
        except (FileNotFoundError, ValueError):
            return None

    @port.setter
    def port(self, port: int) -> None:
        (self.home / "port").write_text(f"{port}\n")

    def find_postmaster(self) -> Postmaster | None:
        """The server that runs on this data. Its number may have gone to another process; its socket can't lie."""
        try:
            lines = os.fsdecode((self.data / "postmaster.pid").read_bytes()).split("\n")
            pid, _, _, port, folder, address, _, status = lines[:8]
            found = Postmaster(int(pid), int(port), folder, bool(address.strip()), status.strip() == "ready")
        except (FileNotFoundError, ValueError):
            return None
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(f"{found.socket}/.s.PGSQL.{found.port}")
            except BlockingIOError:  # it has no room for another client now
                return found
            except OSError:
                return None
        return found

    def locked(self) -> AbstractContextManager[None]:
        """Keep other processes from starting or setting up this server meanwhile."""
        return locked(self.home / "lock")

    def run(self, *argv: str | Path, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run a program in ``server`` as the account.

        Raises:
            ServerUnsuitable: there is no such program, or the folder is gone.
        """
        try:
            return self.account.run(*argv, cwd=self.server, text=text)
        except OSError as error:
            raise ServerUnsuitable(
                f"{Path(argv[0]).name} can't be run: {error.strerror}",
                where=str(error.filename or argv[0]),
                hint="PostgreSQL or the server's folder was removed meanwhile: bring it back, or begin afresh",
            ) from error

    def remove_socket(self) -> None:
        """Remove the socket's folder if it is outside of ``server``; the server must have ended."""
        if self.socket.parent != self.server:
            self.run("rmdir", self.socket)

    def log_end(self) -> str:
        """The last lines of the log; empty if there is none."""
        return self.run("tail", "-n", "12", "log").stdout

    def rotate_log(self) -> None:
        """Begin a new log, and keep the one before."""
        self.run("mv", "-f", "log", "log.old")

    def configure(self, settings: dict[str, str]) -> None:
        """Write the settings that the next start uses."""
        lines = (f"{name} = '{_quoted(value)}'\n" for name, value in settings.items())
        self._must("sh", "-c", f"umask 077; cat > data/{_CONFIG}", text="".join(lines))

    def initialise(self, binaries: Binaries, *, sync: bool) -> None:
        """Make the data directory. One that was interrupted is begun again.

        Args:
            binaries: whose ``initdb``.
            sync: wait until it is safely on disk.

        Raises:
            ServerUnreachable: ``initdb`` failed.
            InvalidInput: something else is in the place of the data.
        """
        if self.data.exists():
            raise InvalidInput(
                "this is not a data directory of PostgreSQL",
                where=str(self.data),
                hint="move it away to begin afresh, or name another directory",
            )
        self._must("rm", "-rf", "data.new")
        self._must("sh", "-c", "umask 077; cat > secret", text=self._new_password())
        self._initdb(binaries, sync)
        self._must("rm", "secret")
        me = f'tenantry "{pwd.getpwuid(os.geteuid()).pw_name}" postgres\n'
        self._must("sh", "-c", "cat > data.new/pg_hba.conf", text=_ACCESS)
        self._must("sh", "-c", "cat > data.new/pg_ident.conf", text=me)
        self._must("sh", "-c", "cat >> data.new/postgresql.conf", text=f"include_if_exists = '{_CONFIG}'\n")
        self._must("mv", "data.new", "data")

    def remove(self) -> None:
        """Remove everything of the server, for good; in a kept directory nothing else is touched."""
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)
        for name in ("server", "password", "port", "lock"):
            (self.home / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.home.rmdir()

    def _new_password(self) -> str:
        """Write the file at one stroke: another process never sees half of it."""
        password = secrets.token_urlsafe(24)
        handle, name = tempfile.mkstemp(prefix="password-", dir=self.home)
        with os.fdopen(handle, "w") as file:
            file.write(password)
        Path(name).replace(self.home / "password")
        return password

    def _initdb(self, binaries: Binaries, sync: bool) -> None:
        base = ["-D", "data.new", "-U", "postgres", "-E", "UTF8", "--pwfile=secret"]
        base += ["--auth-local=peer", "--auth-host=scram-sha-256", *([] if sync else ["--no-sync"])]
        done = self.run(binaries.tool("initdb"), *base, "--locale=C.UTF-8")
        if done.returncode != 0 and "locale" in done.stderr:
            done = self.run(binaries.tool("initdb"), *base, "--locale=C")
        _raise_if_failed(done, self.server)

    def _must(self, *argv: str, text: str = "") -> None:
        _raise_if_failed(self.run(*argv, text=text), self.server)

    def _server_folder(self) -> Path:
        link = self.home / "server"
        if not os.path.lexists(link):
            if self.account.can_enter(self.home):
                _given_to(self.account, self.home).rename(link)
            else:
                link.symlink_to(_given_to(self.account, _store()))
        folder = link.resolve()
        if not folder.is_dir():
            raise InvalidInput(
                "the data of this local server is gone",
                where=str(folder),
                hint=f"bring it back, or remove {link} to begin afresh",
            )
        _check_private(folder, self.account.uid)
        return folder


def _temporary_home(account: Account) -> Path:
    try:
        home = Path(tempfile.mkdtemp(prefix="tenantry-"))
    except OSError as error:
        raise InvalidInput(
            f"there is no place for temporary files: {error.strerror}",
            where=error.filename,
            hint="set TMPDIR to a folder that you can write to",
        ) from None
    if account.is_other:
        home.chmod(0o711)
    return home


def _unusable(home: Path, error: OSError | ValueError) -> InvalidInput:
    return InvalidInput(
        f"the directory for the local server can't be used: {getattr(error, 'strerror', error)}",
        where=repr(str(home)),
        hint="name a directory that you can write to, or one that does not exist yet",
    )


def _kept_home(home: Path, account: Account) -> Path:
    try:
        home.mkdir(mode=0o711 if account.is_other else 0o700, parents=True, exist_ok=True)
        found = home.stat()
        has_data = (home / "PG_VERSION").exists()
    except (OSError, ValueError) as error:
        raise _unusable(home, error) from None
    if has_data:
        raise InvalidInput(
            "this is a data directory of PostgreSQL itself",
            where=str(home),
            hint="name another directory; a server that was set up by other means is used by its DSN",
        )
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & stat.S_IWOTH:
        raise InvalidInput(
            "other users could exchange the local server's files here",
            where=str(home),
            hint="name a directory that belongs to you and that only you can write to",
        )
    return home


def _store() -> Path:
    try:
        return owned_folder(STORE, 0o711)
    except OSError as error:
        raise InvalidInput(
            f"the unprivileged user that runs the server has no place for its data: {error}",
            where=str(STORE),
            hint="name a directory that every user can walk to, outside of root's home",
        ) from None


def _given_to(account: Account, parent: Path) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="server-", dir=parent))
    if account.is_other:
        os.chown(folder, account.uid, account.gid)
    return folder


def _check_private(path: Path, uid: int) -> None:
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode) or found.st_uid != uid or found.st_mode & 0o077:
        raise InvalidInput(
            "other users can get at a file of the local server, or it belongs to somebody else",
            where=str(path),
            hint=f"it must belong to user {uid} and be closed to all others: chmod go= '{path}'",
        )


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "''")


def _raise_if_failed(done: subprocess.CompletedProcess[str], where: Path) -> None:
    if done.returncode == 0:
        return
    said = (done.stderr or done.stdout).strip().splitlines()
    reasons = [line for line in said if "error:" in line or "FATAL" in line]
    raise ServerUnreachable(
        f"the local server can't be set up: {(reasons or said or [done.args[0]])[-1]}",
        where=str(where),
        hint="see that the disk has room and lets this user write there, then try again",
    )
