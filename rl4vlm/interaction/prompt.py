"""Prompts and demonstration replies, from one template for every task (paper, Fig. 3).

A prompt has the paper's order: role, observation, legal actions, rules, form of the answer. The answer is one line of
JSON whose last entry is the action. With `Style.ACTION_ONLY` the action is its only entry.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from rl4vlm.core.nearest import did_you_mean
from rl4vlm.core.types import PromptParts, Style, View

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_TEXTS = ("role", "observation", "rules")


def render(parts: PromptParts, view: View, style: Style) -> str:
    """The prompt for one state of the environment.

    It holds no image token: the chat template of the model adds the image.

    Args:
        parts: the task's texts.
        view: the legal actions, and values for the `{placeholders}` in the texts.
        style: whether thoughts are asked for.

    Raises:
        ValueError: a `{placeholder}` looks like a misspelt name of `view.fields`.
    """
    return f"{situation_text(parts, view)}\nAnswer in JSON: {answer_form(parts, view.fields, style)}"


def situation_text(parts: PromptParts, view: View) -> str:
    """The prompt without the form of the answer."""
    actions = ", ".join(f'"{action}"' for action in view.actions)
    lines = [
        fill(parts.role, view.fields),
        fill(parts.observation, view.fields),
        f"Legal actions: {actions}.",
        fill(parts.rules, view.fields),
    ]
    return "\n".join(line for line in lines if line)


def answer_form(parts: PromptParts, fields: Mapping[str, str], style: Style) -> str:
    """The JSON that the answer should look like, with a hint in angle brackets in place of each value."""
    keys = parts.keys if style is Style.COT else ()
    entries = [f'"{key}": <{fill(parts.hints.get(key, key), fields)}>' for key in keys]
    return "{" + ", ".join([*entries, '"action": "<one legal action>"']) + "}"


def fill(text: str, fields: Mapping[str, str]) -> str:
    """Replace every `{name}` in `text` by `fields[name]`; other braces, such as those of JSON and LaTeX, stay.

    Unlike `str.format`, this never looks up an attribute or an index: texts come from the config.

    Raises:
        ValueError: a name looks like a misspelt field.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name in fields:
            return fields[name]
        if meant := get_close_matches(name, fields, 1, cutoff=0.75):
            raise ValueError(f"prompt text {text!r} uses {{{name}}}: did you mean {{{meant[0]}}}?")
        return match[0]

    return _PLACEHOLDER.sub(value, text)


def prompt_texts(parts: PromptParts) -> tuple[str, ...]:
    """The names of the texts that `override_parts` can replace."""
    return (*_TEXTS, *parts.keys)


def override_parts(parts: PromptParts, texts: Mapping[str, str]) -> PromptParts:
    """Replace some of a task's texts.

    Args:
        parts: the task's own texts.
        texts: new texts by name: `role`, `observation`, `rules`, or one of `parts.keys` to replace its hint. The keys
            themselves cannot be changed, since evaluation and demonstrations rely on them.

    Raises:
        ValueError: an unknown name.
    """
    known = prompt_texts(parts)
    unknown = [name for name in texts if name not in known]
    if unknown:
        raise ValueError(f"prompt has no text {unknown[0]!r}; {did_you_mean(unknown[0], known)}")
    hints = {**parts.hints, **{key: texts[key] for key in parts.keys if key in texts}}
    role, observation, rules = (texts.get(name, getattr(parts, name)) for name in _TEXTS)
    return replace(parts, role=role, observation=observation, rules=rules, hints=hints)


def write_reply(entries: Mapping[str, Any], action: str, style: Style) -> str:
    """Write a reply in the form that `answer_form` asks for, on one line.

    Args:
        entries: the entries before the action, in order. Strings are quoted; numbers and lists (of card ranks) are not,
            so a list such as [K, 2] is not strict JSON.
        action: the legal action.
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
