"""A broker and a place for results that are folders. Unlike Celery's own, what they hold is seen when it is whole."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from celery.backends.filesystem import FilesystemBackend
from kombu.transport import filesystem


class Channel(filesystem.Channel):
    """Where messages are put."""

    def _put(self, queue: str, payload: Any, **_: Any) -> None:  # type: ignore[override]
        folder = Path(self.data_folder_out)
        unseen = folder / f"{uuid4()}.tmp"
        unseen.write_text(json.dumps(payload), "utf-8")
        unseen.rename(folder / f"{time.monotonic_ns()}_{uuid4()}.{queue}.msg")


class Transport(filesystem.Transport):
    """The broker."""

    Channel = Channel


class Results(FilesystemBackend):
    """The results."""

    _filename: Any

    def set(self, key: Any, value: str | bytes) -> None:
        file = Path(os.fsdecode(self._filename(key)))
        unseen = file.with_suffix(f".{uuid4()}.tmp")
        unseen.write_bytes(value if isinstance(value, bytes) else value.encode())
        unseen.rename(file)
