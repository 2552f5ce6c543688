"""The command line: the verbs of :mod:`tenantry.service`, with ``--json`` for programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: without the program's name; None: the process's own.

    Returns:
        The exit code: 0, or that of the error (see :mod:`tenantry.errors`); 130 when interrupted.
    """
    from tenantry.cli.app import run

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal's encoding may not know every character
    try:
        code = run(sys.argv[1:] if arguments is None else list(arguments))
        sys.stdout.flush()
    except BrokenPipeError:
        # Who read our output has gone, as 'head' does; Python would say so once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        from tenantry.cli.failures import BROKEN_PIPE

        return BROKEN_PIPE
    return code
