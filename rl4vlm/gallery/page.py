"""One HTML file out of a template, a style sheet, a script and data.

What models wrote is in the data, and must stay data: it is embedded as JSON without a single `<`, the script sets it as
text, and the page's content security policy runs no script and loads nothing but what is known here by its hash.
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
    """The page that shows `data`; the same data give the same text."""
    style, script = _template("page.css"), _template("page.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {"policy": policy, "style": style, "script": script, "data": embedded(data)}
    # In one pass: a mark that stands in the data is not one of ours.
    return _MARK.sub(lambda mark: parts[mark[1]], _template("page.html"))


def embedded(data: Any) -> str:
    """JSON that can stand within any HTML element: plain ASCII without `<`, `>` and `&`."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode("utf-8")).digest()).decode("ascii")


def _template(name: str) -> str:
    return files("rl4vlm.gallery").joinpath(name).read_text(encoding="utf-8")
