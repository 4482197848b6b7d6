"""Lets a person play as a policy."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from rl4vlm.core.types import Reply, Request, Style
from rl4vlm.interaction.prompt import write_reply

QUIT = "q"


class Quit(Exception):
    """The person does not want to continue."""


def ask(question: str) -> str:
    """Show a question and return the line that a person types. Raises EOFError if there is none."""
    if sys.stdin is None:
        raise EOFError
    return input(question)


class HumanPolicy:
    """Asks a person for each action, until the answer is a legal action or the beginning of exactly one.

    `act` raises `Quit` if the person types `q`, ends the input or interrupts it.

    Args:
        style: how replies are written.
        ask: shows its argument and returns a line, like `input`.
    """

    def __init__(self, style: Style, ask: Callable[[str], str] = ask) -> None:
        self.style = style
        self.ask = ask

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        return [Reply(write_reply({}, self._action(request.view.actions), self.style)) for request in requests]

    def _action(self, actions: Sequence[str]) -> str:
        question = f"Your action ({', '.join(actions)}; {QUIT} quits): "
        while True:
            try:
                typed = self.ask(question).strip()
            except (EOFError, KeyboardInterrupt) as end:
                raise Quit from end
            # Look for an action first: a game may have an action "q".
            meant = matching(typed, actions)
            if len(meant) == 1:
                return meant[0]
            if typed.lower() == QUIT:
                raise Quit
            question = f"{typed!r} is {'more than one' if meant else 'no'} legal action. Your action: "


def matching(typed: str, actions: Sequence[str]) -> list[str]:
    """The action that equals `typed`, ignoring case, or else all actions that begin with it."""
    text = typed.lower()
    exact = [action for action in actions if action.lower() == text]
    return exact or [action for action in actions if text and action.lower().startswith(text)]
