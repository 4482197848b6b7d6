"""The methods that results compare, one row each: name, label, colour, place in tables, and code of a scripted policy.

To add a scripted policy, write its class and add one row here. The evaluations that the workflow runs, tables, figures
and the command line follow. To change how a method is called, coloured or ordered, edit its row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

OTHER_COLOUR = "#999999"
"""Grey, for a method without a row, such as a model of `api_models`."""


@dataclass(frozen=True)
class Method:
    """One row of `METHODS`.

    Attributes:
        name: name in tables, as in `rl4vlm/results/data/main_results.csv`.
        label: name for readers, in legends and in README's table.
        colour: hexadecimal colour in figures.
        policy: `module:object` of a scripted policy, a class that takes the style of its replies; None for the others.
        tasks: the tasks that a scripted policy can play; all of them if empty.
    """

    name: str
    label: str
    colour: str = OTHER_COLOUR
    policy: str | None = None
    tasks: tuple[str, ...] = ()

    def plays(self, task: str) -> bool:
        return not self.tasks or task in self.tasks


# Most colours are of Okabe and Ito's palette, which can be told apart with any colour vision.
# A plain dict literal: the digest of a job that evaluates `random` then covers the code of that policy alone.
METHODS: dict[str, Method] = {
    "base model": Method("base model", "base model", "#BBBBBB"),
    "random": Method("random", "random play", "#777777", "rl4vlm.policies.scripted:RandomPolicy"),
    "stand17": Method(
        "stand on 17", "stand on 17", "#AA7744", "rl4vlm.policies.stand17:StandOn17Policy", tasks=("Blackjack",)
    ),
    "solver": Method("solver", "ceiling (solver)", "#000000", "rl4vlm.policies.scripted:SolverPolicy"),
    "LLaVA-sft-noCoT": Method("LLaVA-sft-noCoT", "LLaVA-sft without thoughts"),
    "LLaVA-sft": Method("LLaVA-sft", "LLaVA-sft", "#56B4E9"),
    "RL4VLM-noCoT": Method("RL4VLM-noCoT", "RL4VLM without thoughts", "#D55E00"),
    "RL4VLM": Method("RL4VLM", "RL4VLM", "#0072B2"),
    "RL4VLM over HTTP": Method("RL4VLM over HTTP", "RL4VLM over HTTP"),
    "CNN+RL": Method("CNN+RL", "CNN+RL", "#009E73"),
    "BUTLER": Method("BUTLER", "BUTLER"),
    "BUTLER_g": Method("BUTLER_g", "BUTLER_g"),
    "GPT4-V": Method("GPT4-V", "GPT4-V", "#CC79A7"),
    "Gemini": Method("Gemini", "Gemini", "#E69F00"),
}
"""All methods, in the order of tables. The key is the method's name, or the name by which a scripted policy is called
(`rl4vlm evaluate stand17 Blackjack`)."""
METHOD_NAMES = frozenset(row.name for row in METHODS.values())
PUBLISHED_ONLY = ("BUTLER", "BUTLER_g", "GPT4-V", "Gemini")
"""Methods of which only published numbers exist. A model of `api_models` may have the name of one of them."""


def scripted_policies() -> dict[str, Method]:
    """The methods that play by fixed rules, by the name of the policy."""
    return {name: method for name, method in METHODS.items() if method.policy}


def method_order() -> list[str]:
    """The names of methods in tables, in their order."""
    return [method.name for method in METHODS.values()]


def label_of(name: str) -> str:
    """The label of the method of this name in tables; a method without a row is called by its name."""
    return next((method.label for method in METHODS.values() if method.name == name), name)


def colours() -> dict[str, str]:
    """The colours of all methods, by name in tables."""
    return {method.name: method.colour for method in METHODS.values()}


def rank(name: str, order: Sequence[str]) -> tuple[int, str]:
    """Sort key for a given order. Names that are not in `order` come last, sorted alphabetically."""
    return (order.index(name), "") if name in order else (len(order), name)
