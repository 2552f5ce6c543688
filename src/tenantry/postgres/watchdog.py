"""Ends a temporary server whose process was killed.

A child waits on a pipe. ``done`` means that the server has been stopped properly; the end of the pipe without it means
that the process at the other end is gone, and then the child stops the server and removes its folders. The child runs
this file by its path, with nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

_DONE = "done"


class Watchdog:
    """The parent's end.

    Args:
        pg_ctl: the program that can stop the server.
        data: the server's data directory.
        user: uid and gid to run ``pg_ctl`` as; None: our own.
        folders: what to remove afterwards.
        environment: all that the programs get of ours.
    """

    def __init__(
        self,
        pg_ctl: Path,
        data: Path,
        *,
        user: tuple[int, int] | None,
        folders: list[Path],
        environment: Mapping[str, str],
    ) -> None:
        uid, gid = user or (-1, -1)
        self._child = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(uid), str(gid), pg_ctl, data, *folders],
            cwd="/",
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in the terminal must not end it first
            text=True,
        )

    def dismiss(self) -> None:
        """The server has been stopped and its folders are gone: the child ends without doing anything."""
        with contextlib.suppress(BrokenPipeError):
            self._child.communicate(f"{_DONE}\n")
        self._child.wait()


def main(uid: int, gid: int, pg_ctl: str, data: str, *folders: str) -> None:
    """The child: wait for the end of the pipe, then clear up."""
    if sys.stdin.readline().strip() == _DONE:
        return
    other = uid >= 0
    subprocess.run(
        [pg_ctl, "stop", "-D", data, "-m", "immediate", "-w", "-t", "60"],
        cwd="/",
        stdin=subprocess.DEVNULL,
        check=False,
        user=uid if other else None,
        group=gid if other else None,
        extra_groups=[] if other else None,
    )
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
