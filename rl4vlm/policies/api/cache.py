"""Every request and its reply on disk, so that what was answered once is never asked, or paid for, again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rl4vlm.core.files import atomic_write_text


@dataclass(frozen=True)
class Stored:
    """An HTTP response: its status, its body word for word, and how often the request was tried again for it."""

    status: int
    text: str
    retries: int = 0


class ReplyCache:
    """A folder of JSON files, one a question, each written at once or not at all.

    A file is named by its question's key and holds the whole exchange, the picture as a data URL: it can be read
    without this package. No key or other header is ever in it. Several processes may share the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> Stored | None:
        """The response to a question, or None. Raises ValueError naming a file that is not as `put` writes it."""
        file = self._file(key)
        if not file.is_file():
            return None
        try:
            response = json.loads(file.read_text(encoding="utf-8"))["response"]
            return Stored(int(response["status"]), str(response["text"]), int(response["retries"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is damaged; delete it, and the question is asked again") from error

    def put(self, key: str, endpoint: str, body: Mapping[str, Any], repetition: int, stored: Stored) -> None:
        """Keep a response with its question."""
        exchange = {"endpoint": endpoint, "repetition": repetition, "request": body, "response": asdict(stored)}
        atomic_write_text(self._file(key), json.dumps(exchange, indent=1) + "\n")

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"
