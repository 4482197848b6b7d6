# ruff: noqa: RUF001 - characters that look like others are meant
"""Plain forms of characters, and mapping offsets back to the original text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl4vlm.interaction.plain import original_offset, plain


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("ａｃｔｉｏｎ", "action"),
        ("＂＇｀", "\"'`"),
        ("“”‘’", "“”‘’"),
        ("−‐‑", "---"),
        ("–—", "–—"),
        ("x²½", "x²½"),
        ("ﬁ…", "fi..."),
        ("e\u0301é", "e\u0301é"),
    ],
)
def test_forms(text: str, expected: str) -> None:
    assert plain(text) == expected


@settings(deadline=None)
@given(text=st.text(max_size=40) | st.text(alphabet="aﷺﬁ½é１"))
def test_every_character_has_a_form_and_leads_back_to_itself(text: str) -> None:
    forms = [plain(character) for character in text]
    assert all(forms)
    assert plain(text) == "".join(forms)
    origins = [offset for offset, form in enumerate(forms) for _ in form]
    assert [original_offset(text, at) for at in range(len(origins))] == origins
    assert original_offset(text, len(origins)) == len(text)


@settings(deadline=None)
@given(text=st.text(alphabet=st.characters(max_codepoint=127)), at=st.integers(0, 50))
def test_ascii_is_as_it_is(text: str, at: int) -> None:
    assert plain(text) is text
    assert original_offset(text, at) == at
