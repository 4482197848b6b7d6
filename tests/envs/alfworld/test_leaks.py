"""Games in the real engine that differ only in what a player cannot see have the same images and prompts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from rl4vlm.core.types import Style
from rl4vlm.envs.alfworld.env import ALFWorldEnv
from rl4vlm.envs.alfworld.games import GameData
from rl4vlm.envs.alfworld.translation import translate
from rl4vlm.envs.alfworld.types import TaskType
from rl4vlm.interaction.prompt import render
from rl4vlm.tasks.registry import get_task
from tests.envs.alfworld.game_files import copy_game

TASK = get_task("ALFWorld")
pytestmark = pytest.mark.usefixtures("warm_pool")
LIES_IN = re.compile(r"\(inReceptacle (\S+) (\S+)\)\s*\n\(objectAtLocation \1 (\S+)\)")


@dataclass(frozen=True)
class House:
    """The problem of a game: the place of each receptacle, which ones open, and the place of each object, all by id."""

    problem: str
    standing: dict[str, str]
    openable: frozenset[str]
    lying: dict[str, str]

    @classmethod
    def read(cls, game: GameData) -> House:
        start, _, _ = game.problem.partition("(:goal")
        standing = dict(re.findall(r"\(receptacleAtLocation (\S+) (\S+)\)", start))
        openable = frozenset(re.findall(r"\(openable (\S+)\)", start))
        lying = {item: receptacle for item, receptacle, _ in LIES_IN.findall(start)}
        return cls(game.problem, standing, openable, lying)

    def contents(self, receptacle: str) -> set[str]:
        return {item for item, where in self.lying.items() if where == receptacle}

    def shifted(self, among: Sequence[str], by: int) -> House:
        """The same house, with everything in one of the receptacles `among` moved to the one `by` places later."""
        there = dict(zip(among, [*among[by:], *among[:by]], strict=True))
        lying = {item: there.get(receptacle, receptacle) for item, receptacle in self.lying.items()}

        def moved(found: re.Match[str]) -> str:
            item = found[1]
            return f"(inReceptacle {item} {lying[item]})\n(objectAtLocation {item} {self.standing[lying[item]]})"

        return House(LIES_IN.sub(moved, self.problem), self.standing, self.openable, lying)


@dataclass(frozen=True)
class Told:
    """Everything a player is shown: the image, and the prompts of both styles with and without the scene in words."""

    image: bytes
    prompts: tuple[str, ...]

    @classmethod
    def by(cls, env: ALFWorldEnv) -> Told:
        prompts = []
        for env.show_text in (True, False):
            prompts += [render(TASK.prompt, env.view(), style) for style in (Style.COT, Style.ACTION_ONLY)]
        return cls(env._backend.image().tobytes(), tuple(prompts))


def told(data: Path, commands: Sequence[str]) -> Iterator[Told]:
    env = ALFWorldEnv("ALFWorld", data=data)
    try:
        env.reset(seed=0)
        yield Told.by(env)
        for command in commands:
            env.step(env.view().actions.index(command))
            yield Told.by(env)
    finally:
        env.close()


@pytest.mark.parametrize("task_type", list(TaskType))
def test_what_is_hidden_changes_nothing_until_it_is_uncovered(
    by_type: dict[TaskType, GameData], tmp_path: Path, task_type: TaskType
) -> None:
    game = by_type[task_type]
    house, names = House.read(game), translate(game).names
    assert house.lying, "the problem's facts are written in another way than this test reads them"
    visited = next(r for r in sorted(house.standing) if r not in house.openable)
    elsewhere = [r for r in sorted(house.standing) if house.standing[r] != house.standing[visited]]
    others = [house.shifted(elsewhere, by) for by in range(1, len(elsewhere))]
    differing = [(r, other) for other in others for r in elsewhere if house.contents(r) != other.contents(r)]
    uncovered, other = max(differing, key=lambda found: found[0] in house.openable)  # a shut one, where there is any
    place, last = names[visited.lower()], names[uncovered.lower()]
    covered, uncover = ["look", "inventory", f"go to {place}", f"examine {place}", "look"], f"go to {last}"
    if uncovered in house.openable:
        covered, uncover = [*covered, uncover, f"examine {last}", "look"], f"open {last}"
    one, two = tmp_path / "one", tmp_path / "two"
    for data, problem in ((one, house.problem), (two, other.problem)):
        copy_game(game.file, data / "train" / game.file.parts[-3] / "trial", pddl_problem=problem)
    here, there = (list(told(data, [*covered, uncover])) for data in (one, two))
    for command, now, then in zip(["start", *covered], here, there, strict=False):
        assert now == then, command
    assert here[-1].image != there[-1].image
    assert all(now != then for now, then in zip(here[-1].prompts, there[-1].prompts, strict=True))
