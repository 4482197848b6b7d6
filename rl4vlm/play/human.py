"""A person as a policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rl4vlm.core.types import Reply, Request, Style
from rl4vlm.interaction.prompt import write_reply

QUIT = "q"


class Quit(Exception):
    """The person does not want to go on."""


class HumanPolicy:
    """Answers with what a person types: a legal action, or the beginning of just one; asks again until it is that.

    `ask` shows its argument and returns a line, like `input`. `act` raises `Quit` at `q`, at the end of the input and
    when interrupted.
    """

    def __init__(self, style: Style, ask: Callable[[str], str] = input) -> None:
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
            meant = matching(typed, actions)
            if len(meant) == 1:
                return meant[0]
            if typed.lower() == QUIT:
                raise Quit
            question = f"{typed!r} is {'more than one' if meant else 'no'} legal action. Your action: "


def matching(typed: str, actions: Sequence[str]) -> list[str]:
    """The actions that a typed text may mean: itself, case apart, or else all that begin with it."""
    text = typed.lower()
    exact = [action for action in actions if action.lower() == text]
    return exact or [action for action in actions if text and action.lower().startswith(text)]
