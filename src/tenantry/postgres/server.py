"""A PostgreSQL server of one's own: for tests, for development, for the demo.

    with LocalServer() as server:
        psycopg.connect(server.dsn())

It works as any user, root included, several side by side, on Linux and macOS. Only this machine reaches it, and only
with a password, or as the same user through its socket.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import re
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self, TypeVar

from psycopg.conninfo import make_conninfo

from tenantry.errors import InUse, InvalidInput, ServerUnreachable, ServerUnsuitable
from tenantry.postgres.account import Account
from tenantry.postgres.binaries import Binaries
from tenantry.postgres.cluster import Cluster, Postmaster
from tenantry.postgres.watchdog import Watchdog
from tenantry.settings import Dsn

_T = TypeVar("_T")

StopMode = Literal["smart", "fast", "immediate"]

DEFAULTS: Mapping[str, str] = {
    "jit": "off",
    "lc_messages": "C",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_timezone": "UTC",
    "max_connections": "100",
    "max_prepared_transactions": "0",
    "max_replication_slots": "10",
    "max_wal_senders": "10",
    "shared_buffers": "32MB",
    "timezone": "UTC",
    "unix_socket_permissions": "0700",
    "wal_level": "logical",
}

# For data that may be lost when the machine fails. A server that is only killed loses nothing that was committed.
THROWAWAY: Mapping[str, str] = {"fsync": "off", "full_page_writes": "off", "max_wal_size": "256MB"}

_OURS = frozenset({"listen_addresses", "port", "unix_socket_directories"})
_SETTING = re.compile(r"[A-Za-z_][\w.]*", re.ASCII)
_PATIENCE = 60.0
# Below the range from which systems give ports to outgoing connections: what was free stays free.
_PORTS = range(20000, 32768)
_PORT_TAKEN = "could not bind"
# What PostgreSQL says while processes of a killed server are still about to end.
_LINGERING = ("pre-existing shared memory block", "lock file")


class LocalServer:
    """A PostgreSQL server that this process starts.

    Args:
        directory: where to keep its data between starts; made if it is not there. If a server runs there already, it is
            used as it runs. None: a temporary folder, removed at :meth:`stop`, at the end of the process, and when the
            process is killed.
        binaries: PostgreSQL's programs; None: the installation that the data belongs to, else :meth:`Binaries.find`.
        port: None: the one of the last start, else a free one.
        settings: of PostgreSQL, by name, for starts by this object; they win over ``DEFAULTS``.
        listen_tcp: also listen on 127.0.0.1, with SCRAM; else on the socket alone.

    Raises:
        ServerUnsuitable: we are root and there is no unprivileged user to run it.
        InvalidInput: an argument has the wrong form, or a setting is not for the caller to choose.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None = None,
        *,
        binaries: Binaries | None = None,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        listen_tcp: bool = True,
    ) -> None:
        self._directory = None if directory is None else _absolute(directory)
        self._account = Account.choose()
        self._wanted_binaries = binaries
        self._wanted_port = None if port is None else _checked_port(port)
        self._settings = {**DEFAULTS, **_checked_settings(settings or {})}
        self._listen_tcp = listen_tcp
        self._cluster: Cluster | None = None
        self._postmaster: Postmaster | None = None
        self._watchdog: Watchdog | None = None
        self._is_ours = False
        self._binaries: Binaries | None = None

    @property
    def directory(self) -> Path:
        """The folder that holds everything of this server; known after :meth:`start`."""
        return self._started(self._cluster).home

    @property
    def binaries(self) -> Binaries:
        """The programs in use; known after :meth:`start`."""
        return self._started(self._binaries)

    @property
    def port(self) -> int:
        """The port, also part of the socket's name; known after :meth:`start`."""
        return self._started(self._postmaster).port

    def is_running(self) -> bool:
        """Whether the server runs now; asks its socket, not our memory."""
        cluster = self._existing()
        return cluster is not None and cluster.find_postmaster() is not None

    def start(self) -> Self:
        """Start the server and wait until it answers; does nothing if it runs.

        Raises:
            MissingDependency: there are no PostgreSQL programs.
            ServerUnsuitable: the data belongs to another major version, or the programs don't run.
            ServerUnreachable: the server does not start; ``where`` has the end of its log.
            InvalidInput: the directory can't be used.
            InUse: a server runs there on another port than the one asked for.
        """
        try:
            cluster = self._cluster or self._open()
            with cluster.locked():
                self._start_in(cluster)
        except BaseException:
            if self._directory is None:
                self.stop("immediate")
            raise
        return self

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server, also one that others started; a temporary one is removed. Does nothing if it does not run.

        Args:
            mode: as ``pg_ctl``'s: ``smart`` waits for the clients, ``fast`` disconnects them, ``immediate`` is a crash.

        Raises:
            ServerUnreachable: it does not stop within a minute.
        """
        cluster = self._existing()
        if cluster is None:
            return
        self._shut_down(cluster, mode)
        if cluster.is_temporary:
            self._clear_up(cluster)

    def remove(self) -> None:
        """Stop the server and remove its data for good, also what an earlier process left in its directory.

        Raises:
            ServerUnreachable: it does not stop within a minute.
            InvalidInput: the directory can't be used.
        """
        cluster = self._existing()
        if cluster is not None:
            with cluster.locked():
                self._shut_down(cluster, "immediate")
                self._clear_up(cluster)

    def crash(self) -> None:
        """Kill every process of the server (SIGKILL). The data stays, and :meth:`start` recovers it."""
        cluster = self._existing()
        postmaster = cluster.find_postmaster() if cluster is not None else None
        if cluster is None or postmaster is None:
            return
        self._account.kill(postmaster.pid)
        # Until somebody reaps it, the dead process keeps its number, and PostgreSQL would believe that it lives.
        name = f"{postmaster.socket}/.s.PGSQL.{postmaster.port}"
        cluster.run("rm", "-f", "data/postmaster.pid", name, f"{name}.lock")

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop and start, with the data and on the same port; ``mode`` as in :meth:`stop`."""
        cluster = self._existing()
        if cluster is not None:
            self._shut_down(cluster, mode)
        self.start()

    def dsn(
        self, dbname: str = "postgres", user: str = "postgres", *, tcp: bool = False, password: str | None = None
    ) -> str:
        """How to connect, as a conninfo string.

        Args:
            dbname: the database.
            user: the role. ``postgres`` is the superuser: it needs no password on the socket, and its own is in the
                string for TCP. Every other role needs the password that it was given.
            tcp: through 127.0.0.1 instead of the socket.
            password: of ``user``.

        Raises:
            InvalidInput: the server does not listen on TCP.
            ServerUnreachable: it has not been started.
        """
        postmaster, cluster = self._started(self._postmaster), self._started(self._cluster)
        if tcp and not postmaster.listens_on_tcp:
            raise InvalidInput("this server does not listen on TCP", hint="start it with listen_tcp=True")
        if tcp and password is None and user == "postgres":
            password = cluster.password
        host = "127.0.0.1" if tcp else postmaster.socket
        known = {"password": password} if password is not None else {}
        return Dsn(make_conninfo("", host=host, port=postmaster.port, dbname=dbname, user=user, **known))

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Stop the server, unless it ran before we came."""
        if self._is_ours:
            self.stop()

    def _open(self) -> Cluster:
        cluster = self._cluster = Cluster(self._directory, self._account)
        if cluster.is_temporary:
            atexit.register(self._stop_at_exit, os.getpid())
        return cluster

    def _existing(self) -> Cluster | None:
        """The folder, if there is one: ours, or one that an earlier process left in the directory."""
        if self._cluster is None and self._directory is not None and (self._directory / "server").exists():
            self._open()
        return self._cluster

    def _start_in(self, cluster: Cluster) -> None:
        self._binaries = self._choose_binaries(cluster)
        running = cluster.find_postmaster()
        if running is None:
            self._set_up(cluster, self._binaries)
            self._launch(cluster, self._binaries)
        else:
            self._join(cluster, running)

    def _join(self, cluster: Cluster, running: Postmaster) -> None:
        if self._wanted_port not in (None, running.port):
            raise InUse(
                f"a server runs there already, on port {running.port}",
                where=str(cluster.home),
                hint="use that port, or stop the server first",
            )
        if not running.is_ready:
            raise ServerUnreachable(
                "the local server is still starting, or already ending",
                where=str(cluster.log),
                hint="try again in a moment; after a crash it reads its log first, and that takes a while",
            )
        self._postmaster = running

    def _choose_binaries(self, cluster: Cluster) -> Binaries:
        major, chosen = cluster.major, self._wanted_binaries
        if chosen is None and major is not None:
            chosen = next((b for b in Binaries.find_all() if b.major == major), None)
        if chosen is None:
            chosen = Binaries.find()
        if major not in (None, chosen.major):
            raise ServerUnsuitable(
                f"the data belongs to PostgreSQL {major}; these programs are {chosen.text}",
                where=str(cluster.home),
                hint=f"set TENANTRY_PG_BIN to the programs of PostgreSQL {major}, or name another directory",
            )
        return chosen.runnable_by(self._account)

    def _set_up(self, cluster: Cluster, binaries: Binaries) -> None:
        if cluster.is_temporary and self._watchdog is None and sys.executable:
            user = (self._account.uid, self._account.gid) if self._account.is_other else None
            self._watchdog = Watchdog(
                binaries.tool("pg_ctl"),
                cluster.data,
                user=user,
                folders=cluster.folders,
                environment=self._account.environment(),
            )
        if cluster.major is None:
            cluster.initialise(binaries, sync=self._settings.get("fsync", "on") not in ("off", "false", "no", "0"))
        cluster.make_socket()

    def _launch(self, cluster: Cluster, binaries: Binaries) -> None:
        until = time.monotonic() + _PATIENCE / 4
        pg_ctl, patience = binaries.tool("pg_ctl"), f"{_PATIENCE:.0f}"
        while True:
            port, is_fixed = self._choose_port(cluster)
            cluster.configure({**self._settings, **self._where_to_listen(cluster, port)})
            cluster.rotate_log()
            done = cluster.run(pg_ctl, "start", "-D", "data", "-l", "log", "-w", "-t", patience)
            self._postmaster = cluster.find_postmaster()
            if done.returncode == 0 and self._postmaster is not None:
                break
            log = cluster.log_end()
            if time.monotonic() > until or not self._may_try_again(log, is_fixed):
                raise _does_not_start(cluster, log or done.stderr, port)
        self._is_ours = True
        cluster.port = port

    def _choose_port(self, cluster: Cluster) -> tuple[int, bool]:
        """The port, and whether no other will do."""
        known = self._wanted_port or cluster.port
        if known is not None:
            return known, True
        return _free_port(), False

    def _where_to_listen(self, cluster: Cluster, port: int) -> dict[str, str]:
        folder = str(cluster.socket).replace('"', '""')
        address = "127.0.0.1" if self._listen_tcp else ""
        return {"listen_addresses": address, "port": str(port), "unix_socket_directories": f'"{folder}"'}

    @staticmethod
    def _may_try_again(log: str, port_is_fixed: bool) -> bool:
        if any(words in log for words in _LINGERING):
            time.sleep(0.1)  # nothing tells us when they have ended
            return True
        return _PORT_TAKEN in log and not port_is_fixed

    def _shut_down(self, cluster: Cluster, mode: StopMode) -> None:
        if cluster.find_postmaster() is None:
            return
        pg_ctl = (self._binaries or self._choose_binaries(cluster)).tool("pg_ctl")
        done = cluster.run(pg_ctl, "stop", "-D", "data", "-m", mode, "-w", "-t", f"{_PATIENCE:.0f}")
        if done.returncode != 0 and cluster.find_postmaster() is not None:
            raise ServerUnreachable(
                f"the local server does not stop: {done.stderr.strip()}",
                where=str(cluster.log),
                hint="close the connections to it, or stop it with mode 'immediate'",
            )
        cluster.remove_socket()

    def _clear_up(self, cluster: Cluster) -> None:
        cluster.remove()
        self._cluster = self._postmaster = None
        atexit.unregister(self._stop_at_exit)
        if self._watchdog is not None:
            self._watchdog.dismiss()
            self._watchdog = None

    def _stop_at_exit(self, pid: int) -> None:
        if os.getpid() == pid:  # not in a forked child
            with contextlib.suppress(ServerUnreachable):
                self.stop("immediate")

    @staticmethod
    def _started(value: _T | None) -> _T:
        if value is None:
            raise ServerUnreachable("the local server has not been started", hint="call start(), or use it in a 'with'")
        return value


def _absolute(directory: str | os.PathLike[str]) -> Path:
    if not os.fspath(directory):
        raise InvalidInput("the directory for the local server has an empty name", hint="use '.' for this folder")
    path = Path(directory).expanduser().absolute()
    if "\n" in str(path):  # PostgreSQL's own files hold one path a line
        raise InvalidInput(f"a server can't live in a path with a line break: {str(path)!r}", hint="name another")
    return path


def _checked_port(port: object) -> int:
    if not isinstance(port, int) or not 1 <= port <= 65535:
        raise InvalidInput(f"{port!r} is not a port", hint="use a number from 1 to 65535, or None for a free one")
    return port


def _checked_settings(settings: Mapping[str, object]) -> dict[str, str]:
    checked = {}
    for name, value in settings.items():
        if not isinstance(value, str) or not _SETTING.fullmatch(name) or not value.isprintable():
            raise InvalidInput(
                f"{name!r} = {value!r} can't be a setting of PostgreSQL",
                hint="names are plain words, values are printable text: '64MB', 'on', '100'",
            )
        if name.lower() in _OURS:
            raise InvalidInput(f"the setting {name} is chosen by LocalServer", hint="use its own arguments")
        checked[name] = value
    return checked


def _free_port() -> int:
    for port in random.sample(_PORTS, 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ServerUnreachable(
        f"there is no free port from {_PORTS.start} to {_PORTS.stop - 1}", hint="name one with port=..."
    )


def _does_not_start(cluster: Cluster, log: str, port: int) -> ServerUnreachable:
    lines = log.strip().splitlines()
    reasons = [line for line in lines if "FATAL" in line or "PANIC" in line]
    hint = "the log says why; if its data is of no value, remove the directory and begin afresh"
    if _PORT_TAKEN in log:
        hint = f"stop what listens on port {port}, or use another: port=..., or remove {cluster.home / 'port'}"
    return ServerUnreachable(
        f"the local server does not start: {(reasons or lines or ['no answer'])[-1]}",
        where="\n".join([f"{cluster.log}, its last lines:", *lines]),
        hint=hint,
    )
