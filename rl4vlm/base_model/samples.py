"""What the embedded base model is trained on: images with the text of what they show, and the texts for its tokenizer.

For a task with `questions`, such as ALFWorld, a sample also has the words of the prompt, with the rules and legal
actions, and those questions. No sample has a reply, or an expert's action.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rl4vlm.core.types import GameEnv, Style, View
from rl4vlm.envs.registration import make_env
from rl4vlm.interaction.prompt import render, situation_text, write_reply
from rl4vlm.tasks.base import Task
from rl4vlm.tasks.registry import get_task

READ_PROMPT = "Read the picture."


@dataclass(frozen=True)
class Lesson:
    """The words of a prompt, and questions about them with their answers."""

    text: str
    asked: tuple[tuple[str, str], ...]

    @property
    def whole(self) -> str:
        return "\n".join([self.text, *(f"{question} {answer}." for question, answer in self.asked)])


@dataclass(frozen=True)
class Glimpse:
    """One training sample.

    Attributes:
        image: (300, 300, 3) uint8.
        perception: the text of each field that can be read off the image.
        lesson: the prompt's words with questions about them, for a task that has questions.
    """

    image: np.ndarray
    perception: Mapping[str, str]
    lesson: Lesson | None = None

    @property
    def answer(self) -> str:
        return "; ".join(self.perception.values())


def glimpses(env: GameEnv, rng: np.random.Generator, task: Task) -> Iterator[Glimpse]:
    """Endless states from random play. The solver makes half of the moves, so that long episodes occur too."""
    image, _ = env.reset(seed=int(rng.integers(2**31)))
    while True:
        view, perception = env.view(), dict(env.perception())
        yield Glimpse(image, perception, _lesson(task, view, perception, rng))
        words = view.actions
        index = words.index(env.expert_action().action) if rng.random() < 0.5 else int(rng.integers(len(words)))
        image, _, terminated, truncated, _ = env.step(index)
        if terminated or truncated:
            image, _ = env.reset()


def _lesson(task: Task, view: View, perception: Mapping[str, str], rng: np.random.Generator) -> Lesson | None:
    """The prompt's words with questions and answers, or None if the task has no questions.

    The last question asks what the image shows.
    """
    asked = task.questions(view, rng)
    if not asked:
        return None
    return Lesson(situation_text(task.prompt, view), (*asked, (READ_PROMPT, "; ".join(perception.values()))))


@dataclass(frozen=True)
class Corpus:
    """The texts that the tokenizer is made from.

    Attributes:
        texts: the texts that it is trained on.
        constant_lines: lines that all prompts of a task and style share; each becomes one token.
        words: words that the task wants as tokens of their own.
    """

    texts: list[str]
    constant_lines: list[str]
    words: frozenset[str]


def corpus(
    task_name: str, count: int, rng: np.random.Generator, env_options: Mapping[str, Any] | None = None
) -> Corpus:
    """Prompts, demonstrations and perceived texts of `count` random states of a task."""
    task = get_task(task_name)
    env = make_env(task_name, **(env_options or {}))
    prompts: dict[Style, list[str]] = {style: [] for style in Style}
    texts = []
    for _, glimpse in zip(range(count), glimpses(env, rng, task), strict=False):
        view, expert_action = env.view(), env.expert_action()
        for style in Style:
            prompts[style].append(render(task.prompt, view, style))
            texts.append(write_reply(expert_action.entries, expert_action.action, style))
        texts.append(glimpse.answer)
        if glimpse.lesson:
            texts.append(glimpse.lesson.whole)
    # The lines that are the same in every state: role, rules, form of the answer.
    common = [set.intersection(*(set(prompt.splitlines()) for prompt in of_style)) for of_style in prompts.values()]
    # One style is enough: the prompts of the other differ only in the form of the answer.
    texts += prompts[Style.COT]
    kept = frozenset() if task.kept_whole is None else frozenset(task.kept_whole.findall("\n".join(texts)))
    return Corpus(texts, sorted(set.union(*common)), kept)
