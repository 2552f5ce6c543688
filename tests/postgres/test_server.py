from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tenantry.errors import InvalidInput, ServerUnreachable
from tenantry.postgres import server as server_module
from tenantry.postgres.account import wait_for_end
from tenantry.postgres.cluster import Cluster
from tenantry.postgres.server import LocalServer
from tests.fixtures.servers import Database
from tests.postgres.helpers import as_root, ask, is_root, local, postmaster, run, socket_folder


class TestAccess:
    def test_the_superuser_comes_in_through_the_socket_and_through_tcp(self, server: LocalServer) -> None:
        assert ask(server.dsn(), "SELECT inet_server_addr()::text") is None
        assert ask(server.dsn(tcp=True), "SELECT host(inet_server_addr())") == "127.0.0.1"

    def test_the_dsn_of_the_socket_holds_no_secret(self, server: LocalServer) -> None:
        assert "password" not in conninfo_to_dict(server.dsn())

    @pytest.mark.parametrize("tcp", [False, True])
    def test_a_role_needs_its_own_password(self, database: Database, tcp: bool) -> None:
        role = f"r_{database.name}"
        run(database.dsn(), f"CREATE ROLE {role} LOGIN PASSWORD 'right'")
        try:
            assert ask(database.dsn(role, tcp=tcp, password="right"), "SELECT current_user") == role
            for password in (None, "wrong"):
                with pytest.raises(psycopg.OperationalError, match="password"):
                    psycopg.connect(database.dsn(role, tcp=tcp, password=password))
        finally:
            run(database.dsn(), f"DROP ROLE {role}")

    def test_a_wrong_password_of_the_superuser_is_refused_on_tcp(self, server: LocalServer) -> None:
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(server.dsn(tcp=True, password="wrong"))

    def test_passwords_are_kept_as_scram(self, server: LocalServer) -> None:
        stored = ask(server.dsn(), "SELECT rolpassword FROM pg_authid WHERE rolname = 'postgres'")
        assert str(stored).startswith("SCRAM-SHA-256$")

    def test_files_and_socket_are_closed_to_others(self, server: LocalServer) -> None:
        home = server.directory
        for path in (home / "server", home / "server" / "data", home / "server" / "socket", home / "password"):
            assert path.stat().st_mode & 0o077 == 0, path

    @as_root
    def test_another_user_does_not_get_to_the_socket(self, server: LocalServer) -> None:
        folder = socket_folder(server)
        reach = ["test", "-S", f"{folder}/.s.PGSQL.{server.port}"]
        assert subprocess.run(reach, user="daemon", group="daemon", extra_groups=[]).returncode != 0
        assert subprocess.run(reach).returncode == 0

    def test_without_tcp_only_the_socket_listens(self) -> None:
        with local(listen_tcp=False) as server:
            assert ask(server.dsn(), "SELECT current_setting('listen_addresses')") == ""
            with pytest.raises(InvalidInput, match="TCP"):
                server.dsn(tcp=True)

    def test_the_server_runs_as_an_unprivileged_user(self, server: LocalServer) -> None:
        owner = Path(f"/proc/{postmaster(server)}").stat().st_uid
        assert owner != 0
        if not is_root:
            assert owner == os.geteuid()

    def test_replication_connections_work_on_socket_and_tcp(self, server: LocalServer) -> None:
        for tcp in (False, True):
            with psycopg.connect(server.dsn(tcp=tcp), replication="database", autocommit=True) as conn:
                row = conn.execute("IDENTIFY_SYSTEM").fetchone()
                assert row is not None
                assert row[3] == "postgres"


class TestSettings:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("wal_level", "logical"),
            ("max_wal_senders", "10"),
            ("max_replication_slots", "10"),
            ("max_connections", "100"),
            ("max_prepared_transactions", "0"),
            ("jit", "off"),
            ("log_parameter_max_length", "0"),
            ("log_parameter_max_length_on_error", "0"),
            ("server_encoding", "UTF8"),
            ("password_encryption", "scram-sha-256"),
            ("TimeZone", "UTC"),
            ("unix_socket_permissions", "0700"),
        ],
    )
    def test_default(self, server: LocalServer, name: str, value: str) -> None:
        assert ask(server.dsn(), f"SELECT current_setting('{name}')") == value

    def test_data_is_safe_unless_the_caller_gives_that_up(self) -> None:
        with LocalServer() as server:
            assert ask(server.dsn(), "SELECT current_setting('fsync')") == "on"
            assert ask(server.dsn(), "SELECT current_setting('full_page_writes')") == "on"

    def test_the_callers_settings_win_and_arrive_unchanged(self) -> None:
        awkward = """it's a \\back\\slash, "quotes" # and 'more'"""
        with local(settings={"work_mem": "7MB", "wal_level": "replica", "my.text": awkward}) as server:
            assert ask(server.dsn(), "SELECT current_setting('work_mem')") == "7MB"
            assert ask(server.dsn(), "SELECT current_setting('wal_level')") == "replica"
            assert ask(server.dsn(), "SELECT current_setting('my.text')") == awkward

    def test_alter_system_wins_over_what_the_server_was_started_with(self) -> None:
        with local() as server:
            run(server.dsn(), "ALTER SYSTEM SET work_mem = '9MB'")
            server.restart()
            assert ask(server.dsn(), "SELECT current_setting('work_mem')") == "9MB"

    @pytest.mark.parametrize(
        "settings",
        [
            {"port": "1"},
            {"PORT": "1"},
            {"listen_addresses": "*"},
            {"unix_socket_directories": "/tmp"},
            {"": "1"},
            {"work_mem = 1 #": "1"},
            {"work_mem": "1\nport = 1"},
            {"work_mem": "\0"},
            {"work_mem": 4},
            {"wörk_mem": "4MB"},
        ],
    )
    def test_a_setting_that_can_not_be_is_refused(self, settings: dict[str, str]) -> None:
        with pytest.raises(InvalidInput):
            LocalServer(settings=settings)

    @pytest.mark.parametrize(
        ("settings", "reason"),
        [({"no_such_thing": "1"}, "no_such_thing"), ({"shared_buffers": "a lot"}, "shared_buffers")],
    )
    def test_a_setting_that_postgresql_refuses_is_named_and_nothing_is_left(
        self, settings: dict[str, str], reason: str, monkeypatch: pytest.MonkeyPatch, open_folder: Path
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(open_folder))
        with pytest.raises(ServerUnreachable) as caught:
            local(settings=settings).start()
        assert reason in f"{caught.value.message} {caught.value.where}"
        assert caught.value.hint is not None
        assert list(open_folder.iterdir()) == []

    @pytest.mark.parametrize("port", [0, -1, 65536, "5432", 1.5])
    def test_what_is_not_a_port_is_refused(self, port: int) -> None:
        with pytest.raises(InvalidInput, match="not a port"):
            LocalServer(port=port)


class TestLife:
    def test_a_temporary_server_leaves_nothing(self) -> None:
        server = local()
        server.start()
        home, pid = server.directory, postmaster(server)
        assert server.is_running()
        assert socket_folder(server).is_relative_to(home)
        server.stop()
        assert not server.is_running()
        assert not home.exists()
        assert wait_for_end(pid)

    def test_stopping_twice_or_before_the_start_is_no_error(self) -> None:
        server = local()
        server.stop()
        server.start()
        server.stop()
        server.stop()

    def test_a_temporary_server_starts_afresh_after_a_stop(self) -> None:
        server = local()
        with server:
            run(server.dsn(), "CREATE TABLE t ()")
        with server:
            assert ask(server.dsn(), "SELECT to_regclass('t')") is None

    def test_starting_twice_is_no_error(self, server: LocalServer) -> None:
        before = postmaster(server)
        assert server.start() is server
        assert postmaster(server) == before

    def test_entering_a_server_that_was_started_by_hand_still_stops_it(self) -> None:
        with local().start() as server:
            pid = postmaster(server)
        assert wait_for_end(pid)

    def test_a_start_that_is_interrupted_leaves_nothing(
        self, monkeypatch: pytest.MonkeyPatch, open_folder: Path
    ) -> None:
        def interrupt(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("tempfile.tempdir", str(open_folder))
        monkeypatch.setattr(Cluster, "make_socket", interrupt)
        with pytest.raises(KeyboardInterrupt):
            local().start()
        assert list(open_folder.iterdir()) == []

    def test_a_server_that_waits_for_its_clients_too_long_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(server_module, "_PATIENCE", 1)
        with local() as server, contextlib.closing(psycopg.connect(server.dsn())):
            with pytest.raises(ServerUnreachable, match="does not stop") as caught:
                server.stop("smart")
            assert "immediate" in str(caught.value.hint)

    def test_without_a_place_for_temporary_files_the_error_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tempfile.tempdir", "/nowhere")
        with pytest.raises(InvalidInput, match="temporary files"):
            local().start()

    def test_before_the_start_there_is_no_dsn(self) -> None:
        server = local()
        for name in ("port", "directory", "binaries"):
            with pytest.raises(ServerUnreachable, match="not been started"):
                getattr(server, name)
        with pytest.raises(ServerUnreachable, match="not been started"):
            server.dsn()

    def test_restart_keeps_data_and_dsn(self) -> None:
        with local() as server:
            before = server.dsn(tcp=True)
            run(server.dsn(), "CREATE TABLE t ()")
            server.restart()
            assert server.dsn(tcp=True) == before
            assert ask(before, "SELECT to_regclass('t')::text") == "t"

    def test_several_run_side_by_side(self, server: LocalServer, second_server: LocalServer) -> None:
        identity = "SELECT system_identifier::text FROM pg_control_system()"
        assert ask(server.dsn(tcp=True), identity) != ask(second_server.dsn(tcp=True), identity)
        assert server.port != second_server.port

    def test_the_oldest_supported_version_runs(self, server15: LocalServer) -> None:
        assert server15.binaries.major == 15
        assert ask(server15.dsn(), "SELECT current_setting('server_version_num')::int") == server15.binaries.version
        assert ask(server15.dsn(), "SELECT current_setting('wal_level')") == "logical"


class TestCrash:
    def test_what_was_committed_survives_and_the_rest_does_not(self) -> None:
        with local() as server:
            run(server.dsn(), "CREATE TABLE t (a int)")
            with psycopg.connect(server.dsn()) as open_one:
                open_one.execute("INSERT INTO t VALUES (1)")
                open_one.commit()
                open_one.execute("INSERT INTO t VALUES (2)")
                server.crash()
                assert not server.is_running()
                with pytest.raises(psycopg.OperationalError):
                    open_one.execute("SELECT 1")
            server.start()
            assert ask(server.dsn(), "SELECT sum(a) FROM t") == 1

    def test_a_server_that_does_not_run_can_not_crash(self) -> None:
        server = local()
        server.crash()
        with server:
            server.crash()
            server.crash()

    def test_a_busy_session_ends_with_the_server(self) -> None:
        with local() as server, contextlib.closing(psycopg.connect(server.dsn())) as busy:
            backend = busy.info.backend_pid
            busy.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 100000000000)")
            busy.pgconn.flush()
            server.crash()
            assert wait_for_end(backend, 0)
            server.start()
            assert ask(server.dsn(), "SELECT 1") == 1

    def test_a_start_waits_for_the_last_processes_of_a_server_that_was_killed(self) -> None:
        with local() as server, contextlib.closing(psycopg.connect(server.dsn())):
            os.kill(postmaster(server), signal.SIGKILL)
            server.start()
            assert ask(server.dsn(), "SELECT 1") == 1

    def test_a_crashed_temporary_server_is_removed_at_stop(self) -> None:
        with local() as server:
            home = server.directory
            server.crash()
        assert not home.exists()


class TestPorts:
    def test_a_port_that_is_taken_is_an_error_that_names_it(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            with pytest.raises(ServerUnreachable, match="could not create any TCP/IP sockets") as caught:
                local(port=port).start()
        assert str(port) in str(caught.value.hint)
        assert "its last lines" in str(caught.value.where)

    def test_a_lost_race_for_a_free_port_is_run_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        free = server_module._free_port()
        with socket.create_server(("127.0.0.1", 0)) as other:
            offered = iter([other.getsockname()[1], free])
            monkeypatch.setattr(server_module, "_free_port", lambda: next(offered))
            with local() as server:
                assert server.port == free

    def test_a_kept_server_does_not_wander_to_another_port(self, directory: Path) -> None:
        with local(directory) as server:
            port = server.port
        with socket.create_server(("127.0.0.1", port)), pytest.raises(ServerUnreachable) as caught:
            local(directory).start()
        assert str(directory / "port") in str(caught.value.hint)
        with local(directory) as server:
            assert server.port == port

    def test_the_port_that_was_asked_for_is_used(self) -> None:
        free = server_module._free_port()
        with local(port=free) as server:
            assert conninfo_to_dict(server.dsn(tcp=True))["port"] == str(free)
