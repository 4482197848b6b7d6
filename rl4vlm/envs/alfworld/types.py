"""Frozen dataclasses of ALFWorld that pass between processes: the goal of a game, and a situation in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

Fact = tuple[str, ...]
"""A predicate and its arguments, in lower case as the engine writes them: `("inreceptacle", "apple 1", "fridge 1")`."""


class TaskType(StrEnum):
    """The six task types, named as in the paper's table."""

    PICK = "Pick"
    LOOK = "Look"
    CLEAN = "Clean"
    HEAT = "Heat"
    COOL = "Cool"
    PICK2 = "Pick2"

    @property
    def folder_prefix(self) -> str:
        """The beginning of the names of this type's game folders, and `task_type` in their `traj_data.json`."""
        return _PREFIXES[self]


_PREFIXES: Mapping[TaskType, str] = {
    TaskType.PICK: "pick_and_place_simple",
    TaskType.LOOK: "look_at_obj_in_light",
    TaskType.CLEAN: "pick_clean_then_place_in_recep",
    TaskType.HEAT: "pick_heat_then_place_in_recep",
    TaskType.COOL: "pick_cool_then_place_in_recep",
    TaskType.PICK2: "pick_two_obj_and_place",
}


class Source(StrEnum):
    """Where a game comes from: this project's generator or the benchmark's data."""

    GENERATED = "generated"
    OFFICIAL = "official"


class Images(StrEnum):
    """Kinds of observations: images drawn by this project, or the benchmark's frames of AI2-THOR."""

    DRAWN = "drawn"
    FRAMES = "frames"


@dataclass(frozen=True)
class Goal:
    """The goal of a game. Classes are written as the engine writes them, in lower case (`alarmclock`, `sidetable`).

    `receptacle` is None for Look, `lamp` is None for all others.
    """

    task_type: TaskType
    object_class: str
    receptacle: str | None = None
    lamp: str | None = None


@dataclass(frozen=True)
class Situation:
    """A situation in a running game: after its start or after a command.

    A player may be told `feedback`, `scene`, `goal_text` and `admissible`, and may be shown the part of `facts` that is
    about the agent's place. `facts` is the whole true state, including what closed receptacles hold. `next_command` and
    `conditions_met` are for scripted policies and rewards. No observation may use them.

    Attributes:
        feedback: the engine's answer to the last command; after the start, its welcome with the room and the task.
        scene: what `look` would answer, without taking a step: where the agent is and what stands around it; at a
            receptacle also what is visible in or on it.
        goal_text: the task in words ("put a hot mug in coffeemachine.").
        admissible: the legal commands, sorted, each once.
        facts: the true state, sorted. Objects have the names that commands use (`apple 1`), places are named `loc 3`.
        location: the place where the agent stands, as in `facts`.
        at: the receptacles at that place, sorted; empty in the middle of the room.
        held: the object that the agent holds, or None.
        won: whether the goal is reached.
        done: whether the game is over: won or ended by the engine. The environment, not the engine, limits the steps.
        steps: commands given since the start, illegal ones included.
        conditions_met: the fraction of the goal's conditions that hold, in [0, 1]; 1 exactly if the game is won.
        goal: the goal of the game.
        game_file: the path of its `game.tw-pddl`.
        source: whether the game was generated or belongs to the benchmark.
        next_command: the next command of the stored walkthrough. None if there is no walkthrough or play has left it.
    """

    feedback: str
    scene: str
    goal_text: str
    admissible: tuple[str, ...]
    facts: tuple[Fact, ...]
    location: str
    at: tuple[str, ...]
    held: str | None
    won: bool
    done: bool
    steps: int
    conditions_met: float
    goal: Goal
    game_file: str
    source: Source
    next_command: str | None = None

    @property
    def task_type(self) -> TaskType:
        return self.goal.task_type
