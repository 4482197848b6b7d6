"""Builds one HTML file from a template, a style sheet, a script and data.

The data contain text that models wrote, which must never run as code. So the data are embedded as JSON without `<`, the
script inserts them as text only, and the content security policy allows only the style sheet and script with the hashes
computed here.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

_MARK = re.compile(r"\[\[(\w+)\]\]")


def build_page(data: Mapping[str, Any]) -> str:
    """Return the page's HTML. The same data give the same HTML."""
    style, script = _template("page.css"), _template("page.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {"policy": policy, "style": style, "script": script, "data": embedded(data)}
    # Replace all marks in one pass, so that a mark inside the data is left alone.
    return _MARK.sub(lambda mark: parts[mark[1]], _template("page.html"))


def embedded(data: Any) -> str:
    """Encode data as JSON that is safe inside any HTML element: ASCII without `<`, `>` and `&`."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode("utf-8")).digest()).decode("ascii")


def _template(name: str) -> str:
    return files("rl4vlm.gallery").joinpath(name).read_text(encoding="utf-8")
