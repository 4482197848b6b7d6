"""The prompt a player is given and the reply a demonstration gives: one template for every task (paper, Fig. 3).

Order, as in the paper: role, what is observed, the legal actions as text, the rules, the form of the answer. The answer
is one line of JSON whose last entry is the action; with `Style.ACTION_ONLY` the action is all of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rl4vlm.core.types import PromptParts, Style, View

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_TEXTS = ("role", "observation", "rules")


def render(parts: PromptParts, view: View, style: Style) -> str:
    """The prompt for what `view` shows now; the chat template adds the picture, so no image token is in it.

    Raises:
        ValueError: a text holds a `{placeholder}` that `view.fields` does not fill.
    """
    return f"{situation_text(parts, view)}\nAnswer in JSON: {answer_form(parts, view.fields, style)}"


def situation_text(parts: PromptParts, view: View) -> str:
    """All of the prompt but the form of the answer."""
    actions = ", ".join(f'"{action}"' for action in view.actions)
    lines = [
        fill(parts.role, view.fields),
        fill(parts.observation, view.fields),
        f"Legal actions: {actions}.",
        fill(parts.rules, view.fields),
    ]
    return "\n".join(line for line in lines if line)


def answer_form(parts: PromptParts, fields: Mapping[str, str], style: Style) -> str:
    """The form of the answer, with a hint in angle brackets where a value goes."""
    keys = parts.keys if style is Style.COT else ()
    entries = [f'"{key}": <{fill(parts.hints.get(key, key), fields)}>' for key in keys]
    return "{" + ", ".join([*entries, '"action": "<one legal action>"']) + "}"


def fill(text: str, fields: Mapping[str, str]) -> str:
    """Replace every `{name}` in `text` by `fields[name]`. Raises ValueError naming one that is not there."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in fields:
            known = ", ".join(sorted(fields)) or "none"
            raise ValueError(f"prompt text {text!r} asks for {{{name}}}, which this task lacks; it has {known}")
        return fields[name]

    return _PLACEHOLDER.sub(value, text)


def override_parts(parts: PromptParts, texts: Mapping[str, str]) -> PromptParts:
    """`parts` with some texts replaced.

    Args:
        parts: a task's own texts.
        texts: `role`, `observation`, `rules`, or one of `parts.keys` for its hint. The keys themselves are an interface
            and cannot be changed.

    Raises:
        ValueError: a name that is none of these.
    """
    unknown = [name for name in texts if name not in (*_TEXTS, *parts.keys)]
    if unknown:
        raise ValueError(f"prompt has no text {unknown[0]!r}; it has {', '.join((*_TEXTS, *parts.keys))}")
    hints = {**parts.hints, **{key: texts[key] for key in parts.keys if key in texts}}
    role, observation, rules = (texts.get(name, getattr(parts, name)) for name in _TEXTS)
    return replace(parts, role=role, observation=observation, rules=rules, hints=hints)


def write_reply(entries: Mapping[str, Any], action: str, style: Style) -> str:
    """The one-line reply of a demonstration.

    Args:
        entries: what stands before the action, in order; texts are quoted, numbers and lists (of card ranks) are not.
        action: the action word.
        style: with `Style.ACTION_ONLY` the entries are left out.
    """
    shown = entries if style is Style.COT else {}
    pairs = [f'"{key}": {_written(value)}' for key, value in shown.items()]
    return "{" + ", ".join([*pairs, f'"action": {_written(action)}']) + "}"


def _written(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(str(item) for item in value) + "]"
    return str(value)
