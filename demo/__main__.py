"""``python -m demo``: start everything, fill it, attack it, and serve it until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from demo.report import Report, StepFailed, console
from demo.show import Options, run

INTERRUPTED = 130


def parse(arguments: Sequence[str]) -> Options:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        prog="make demo ARGS='...'", description="A small SaaS on two servers, its tenants on every level of isolation."
    )
    parser.add_argument("--check", action="store_true", help="prove everything, print one JSON document, and end")
    parser.add_argument("--port", type=_port, metavar="N", help="serve on this port; otherwise 8000 or a free one")
    parser.add_argument("--data", metavar="DIR", help="a folder with the data set, or 'sample' for the demo's own")
    parser.add_argument("--keep", type=_folder, metavar="DIR", help="keep everything in this folder, and use it again")
    return Options(**vars(parser.parse_args(arguments)))


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a port: use a number from 0 to 65535")
    return int(text)


def _folder(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("the folder has an empty name; use '.' for this one")
    return Path(text).expanduser()


def main(arguments: Sequence[str]) -> int:
    """Run the demo; the exit code is 0 if every step held, 1 if one did not, 130 if it was interrupted."""
    options = parse(arguments)
    report = Report(console(to_stderr=options.check))
    try:
        run(options, report)
    except StepFailed:
        pass
    except (KeyboardInterrupt, asyncio.CancelledError):
        return INTERRUPTED
    finally:
        if options.check:
            print(json.dumps(report.as_dict(), indent=2, ensure_ascii=False))
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
