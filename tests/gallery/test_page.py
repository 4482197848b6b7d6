"""The page's HTML: data never become markup or code."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from rl4vlm.gallery.page import build_page, embedded
from tests.gallery.conftest import HOSTILE

NASTY = [
    *HOSTILE,
    "</SCRIPT >",
    "<!--<script>",
    "]]>",
    "\ud800",
    "&amp;lt;script&amp;gt;",
    "\\u003c/script>",
    "[[policy]]",
]


class Outline(HTMLParser):
    """The elements of a page, and the text at the start of each."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.within: dict[int, str] = {}
        self.open = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open = True

    def handle_endtag(self, tag: str) -> None:
        self.open = False

    def handle_data(self, data: str) -> None:
        if self.open:
            number = len(self.elements) - 1
            self.within[number] = self.within.get(number, "") + data

    def content(self, tag: str) -> list[str]:
        return [self.within.get(number, "") for number, (name, _) in enumerate(self.elements) if name == tag]


@pytest.mark.parametrize("text", NASTY)
def test_data_round_trip_and_add_no_element(text: str) -> None:
    empty, outline = Outline(build_page({})), Outline(build_page({"reply": text, text: [text]}))
    assert outline.elements == empty.elements
    data, script = outline.content("script")
    assert json.loads(data) == {"reply": text, text: [text]}
    assert script == empty.content("script")[1]


@pytest.mark.parametrize("text", NASTY)
def test_embedded_data_hold_no_markup_and_no_line_separator(text: str) -> None:
    written = embedded({"reply": text})
    assert not set(written) & set("<>&\u2028\u2029\n")
    assert written.isascii()


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        embedded({"value": float("nan")})


def test_the_page_runs_its_own_script_and_loads_nothing() -> None:
    outline = Outline(build_page({"reply": HOSTILE[0]}))
    (policy,) = (
        attributes["content"] or ""
        for name, attributes in outline.elements
        if name == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )
    rules = dict(rule.split(maxsplit=1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for kind, content in (("script-src", outline.content("script")[1]), ("style-src", outline.content("style")[0])):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[kind] == f"'sha256-{digest}'"
    addresses = [
        value for _, attributes in outline.elements for name, value in attributes.items() if name in ("src", "href")
    ]
    assert addresses == ["data:,"]
    assert not any(
        name.startswith("on") or name == "style" for _, attributes in outline.elements for name in attributes
    )


def test_the_script_sets_text_and_never_markup() -> None:
    script: Any = Outline(build_page({})).content("script")[1]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", script)


def test_every_element_that_the_script_looks_up_is_there() -> None:
    outline = Outline(build_page({}))
    there = {attributes.get("id") for _, attributes in outline.elements}
    looked_up = set(re.findall(r'\bat\("([\w-]+)"\)', outline.content("script")[1]))
    assert looked_up
    assert looked_up <= there
