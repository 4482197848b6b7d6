"""Stores every request and reply on disk, so that no question is asked, or paid for, twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from rl4vlm.core.files import atomic_write_text, named, read_json


@dataclass(frozen=True)
class Stored:
    """An HTTP response: status, unchanged body, and the number of retries before it."""

    status: int
    text: str
    retries: int = 0


_STORED = TypeAdapter(Stored)


class ReplyCache:
    """A folder with one JSON file per question. Several processes may share it.

    A file is named by the question's key (`question_key`) and holds the whole exchange, with the image as a data URL.
    It never holds an API key or other headers. A checksum reveals a damaged file; files of earlier versions have none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Before the first question is asked and paid for.
        with named(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def get(self, key: str) -> Stored | None:
        """The stored response, or None. Raises ValueError if the file is damaged; the message names it."""
        file = self._file(key)
        if not file.is_file():
            return None
        try:
            exchange = read_json(file)
            stored = _STORED.validate_python(exchange["response"])
            if "sha256" in exchange and exchange["sha256"] != _sha256(exchange):
                raise ValueError("it is not what was stored")
        except (ValueError, KeyError) as error:
            raise ValueError(f"{file} is damaged; delete it to ask the question again") from error
        return stored

    def put(self, key: str, endpoint: str, body: Mapping[str, Any], repetition: int, stored: Stored) -> None:
        """Store a response with its question."""
        exchange = {"endpoint": endpoint, "repetition": repetition, "request": body, "response": asdict(stored)}
        exchange["sha256"] = _sha256(exchange)
        atomic_write_text(self._file(key), json.dumps(exchange, indent=1) + "\n")

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def _sha256(exchange: Mapping[str, Any]) -> str:
    """The checksum of a stored exchange, without its own entry."""
    text = json.dumps({name: value for name, value in exchange.items() if name != "sha256"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
