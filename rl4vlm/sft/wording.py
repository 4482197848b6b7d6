"""Thoughts in many wordings: grammars that reword the sentences of a solver, with the same meaning.

The solver has one wording for each state. Once a model has learned it, its thoughts have almost no entropy, and λ
(paper, section 4.3) has nothing to weigh. Every combination of a join, a reason and a conclusion is equally likely.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product

import numpy as np

JOINS = (
    "{reason}, so {conclusion}.",
    "{reason}, therefore {conclusion}.",
    "{reason}: {conclusion}.",
    "since {reason}, {conclusion}.",
    "because {reason}, {conclusion}.",
    "as {reason}, {conclusion}.",
    "{conclusion}, because {reason}.",
    "{conclusion}, since {reason}.",
    "{conclusion}, as {reason}.",
    "{conclusion}: {reason}.",
)


@dataclass(frozen=True)
class Grammar:
    """How one sentence of the solver can be reworded.

    Attributes:
        said: the solver's sentence; its named groups fill the `{name}` of the wordings.
        reasons: wordings of why.
        conclusions: wordings of what follows.
    """

    said: re.Pattern[str]
    reasons: tuple[str, ...]
    conclusions: tuple[str, ...]


_LESS = (
    "{low} is less than {high}", "{low} is smaller than {high}", "{low} is below {high}",
    "{high} is greater than {low}", "{high} is larger than {low}", "{high} is above {low}",
)  # fmt: skip
_GO = (
    "the number must go {way}", "the number has to go {way}", "the number should go {way}", "the number goes {way}",
    "it must go {way}", "we must go {way}", "we go {way}", "the next step is {way}",
)  # fmt: skip
_MAKES = (
    "{formula} = 12", "{formula} equals 12", "{formula} makes 12",
    "{formula} is 12", "12 = {formula}", "12 is {formula}",
)  # fmt: skip
_NEXT = (
    "the next item is {item}", "the next item must be {item}", "the next is {item}", "the item is {item}",
    "{item} is the next item", "{item} is next", "{item} comes next", "we add {item}",
)  # fmt: skip
_UP = re.compile(r"(?P<low>\d) is less than (?P<high>\d), so the number must go (?P<way>up)\.")
_DOWN = re.compile(r"(?P<high>\d) is greater than (?P<low>\d), so the number must go (?P<way>down)\.")
_FORMULA = re.compile(r"(?P<formula>.+) = 12, so the next item is (?P<item>\S+)\.")
GRAMMARS = {
    "NumberLine": (Grammar(_UP, _LESS, _GO), Grammar(_DOWN, _LESS, _GO)),
    "EZPoints": (Grammar(_FORMULA, _MAKES, _NEXT),),
}
"""By task, the grammars of its solver's sentences."""


class Rewording:
    """Rewords the thoughts of a task's solver, each time anew.

    Args:
        task: the name of the task.
        rng: draws the wordings.

    Raises:
        ValueError: there is no grammar for the task.
    """

    def __init__(self, task: str, rng: np.random.Generator) -> None:
        if task not in GRAMMARS:
            raise ValueError(f"wording varied: {task} has one wording; those with more are {', '.join(GRAMMARS)}")
        self.task = task
        self.rng = rng

    def __call__(self, thoughts: str) -> str:
        """The same thoughts in other words."""
        found = wordings(self.task, thoughts)
        return found[int(self.rng.integers(len(found)))]


def wordings(task: str, thoughts: str) -> list[str]:
    """All wordings of a sentence of a task's solver. Raises ValueError for a sentence that no grammar knows."""
    for grammar in GRAMMARS[task]:
        if match := grammar.said.fullmatch(thoughts):
            return [
                join.format(reason=reason, conclusion=conclusion).format(**match.groupdict())
                for join, reason, conclusion in product(JOINS, grammar.reasons, grammar.conclusions)
            ]
    raise ValueError(f"wording varied: no grammar of {task} knows {thoughts!r}")
