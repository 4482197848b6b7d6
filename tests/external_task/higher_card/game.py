"""HigherCard: two cards lie side by side; say which of them is higher."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from rl4vlm.core.types import ExpertAction, PromptParts
from rl4vlm.tasks.base import CardImage, CardTask, Scene, Transition
from rl4vlm.tasks.cards import check_option_names

RANKS = "A23456789TJQK"


@dataclass(frozen=True)
class Hand:
    """The ranks of the left and the right card, 1 (ace) to 13 (king), never equal."""

    left: int
    right: int


class HigherCard(CardTask[Hand]):
    """Actions `left` and `right`; +1 for the higher card, else -1; one step."""

    name = "HigherCard"
    gym_id = "higher_card/HigherCard-v0"
    actions = ("left", "right")
    prompt = PromptParts(
        role="You compare playing cards.",
        observation="You see two cards side by side.",
        rules="Name the side of the higher card; the ace is the lowest, the king the highest.",
        keys=("cards", "thoughts"),
        hints={"cards": "the ranks of both cards", "thoughts": "which is higher"},
    )
    perception_patterns: ClassVar[Mapping[str, re.Pattern[str]]] = {"cards": re.compile(r'"cards":\s*(\[[^\]]*\])')}

    def __init__(self, rules: str = "strict") -> None:
        """Every card game is given `rules`; this one has only one set of them."""

    def start(self, rng: np.random.Generator, options: Mapping[str, Any] | None = None) -> Hand:
        check_option_names(options, ())
        left, right = rng.choice(len(RANKS), size=2, replace=False) + 1
        return Hand(int(left), int(right))

    def transition(self, state: Hand, action: str, rng: np.random.Generator) -> Transition[Hand]:
        right_answer = self.solve(state).action
        return Transition(state, 1.0 if action == right_answer else -1.0, terminated=True, truncated=False)

    def info(self, state: Hand) -> dict[str, Any]:
        return {"Left": state.left, "Right": state.right}

    def fields(self, state: Hand) -> dict[str, str]:
        return {}

    def scene(self, state: Hand) -> Scene:
        cards = [f"{suit}{RANKS[rank - 1]}" for suit, rank in (("S", state.left), ("H", state.right))]
        return Scene(
            "#35654d",
            tuple(
                CardImage(x=5 + 148 * place, y=56, width=135, height=189, card=card) for place, card in enumerate(cards)
            ),
        )

    def solve(self, state: Hand) -> ExpertAction:
        action = "left" if state.left > state.right else "right"
        return ExpertAction({"cards": [*self._ranks(state)], "thoughts": f"The {action} card is higher."}, action)

    def perception(self, state: Hand) -> dict[str, str]:
        return {"cards": f"[{', '.join(self._ranks(state))}]"}

    @staticmethod
    def _ranks(state: Hand) -> tuple[str, str]:
        return RANKS[state.left - 1], RANKS[state.right - 1]
