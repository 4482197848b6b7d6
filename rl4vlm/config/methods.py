"""How the methods that results compare look in tables and figures, one row each: label, colour, and place in tables.

Of all stages, only those that make tables and figures import this module, so an edit of a row repeats no evaluation. A
method without a row is called by its name, is grey, and comes last in tables.
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
        label: name for readers, in legends and in README's table.
        colour: hexadecimal colour in figures.
    """

    label: str
    colour: str = OTHER_COLOUR


# Most colours are of Okabe and Ito's palette, which can be told apart with any colour vision.
METHODS: dict[str, Method] = {
    "base model": Method("base model", "#BBBBBB"),
    "random": Method("random play", "#777777"),
    "stand on 17": Method("stand on 17", "#AA7744"),
    "solver": Method("ceiling (solver)", "#000000"),
    "LLaVA-sft-noCoT": Method("LLaVA-sft without thoughts"),
    "LLaVA-sft": Method("LLaVA-sft", "#56B4E9"),
    "RL4VLM-noCoT": Method("RL4VLM without thoughts", "#D55E00"),
    "RL4VLM": Method("RL4VLM", "#0072B2"),
    "RL4VLM over HTTP": Method("RL4VLM over HTTP"),
    "CNN+RL": Method("CNN+RL", "#009E73"),
    "BUTLER": Method("BUTLER"),
    "BUTLER_g": Method("BUTLER_g"),
    "GPT4-V": Method("GPT4-V", "#CC79A7"),
    "Gemini": Method("Gemini", "#E69F00"),
}
"""By the names of methods in tables, as in `rl4vlm/results/data/main_results.csv`, in the order of tables."""
PUBLISHED_ONLY = ("BUTLER", "BUTLER_g", "GPT4-V", "Gemini")
"""Methods of which only published numbers exist. A model of `api_models` may have the name of one of them."""


def label_of(name: str) -> str:
    """The label of the method of this name in tables; a method without a row is called by its name."""
    return METHODS[name].label if name in METHODS else name


def colours() -> dict[str, str]:
    """The colours of all methods, by name in tables."""
    return {name: method.colour for name, method in METHODS.items()}


def rank(name: str, order: Sequence[str]) -> tuple[int, str]:
    """Sort key for a given order. Names that are not in `order` come last, sorted alphabetically."""
    return (order.index(name), "") if name in order else (len(order), name)
