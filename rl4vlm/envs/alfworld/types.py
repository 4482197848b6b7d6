"""The frozen records of ALFWorld that cross processes and files: what a game is, and what is the case in one now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

Fact = tuple[str, ...]
"""A predicate and its arguments, in the engine's lower-case words: `("inreceptacle", "apple 1", "fridge 1")`."""


class TaskType(StrEnum):
    """The six task types, by the names of the paper's table."""

    PICK = "Pick"
    LOOK = "Look"
    CLEAN = "Clean"
    HEAT = "Heat"
    COOL = "Cool"
    PICK2 = "Pick2"

    @property
    def folder_prefix(self) -> str:
        """What the folders of games of this type begin with, and `task_type` in their `traj_data.json`."""
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
    """Where a game comes from: this project's generator, or the benchmark's own data."""

    GENERATED = "generated"
    OFFICIAL = "official"


class Images(StrEnum):
    """What shows a game: this project's drawings, or the benchmark's own frames of AI2-THOR."""

    DRAWN = "drawn"
    FRAMES = "frames"


@dataclass(frozen=True)
class Goal:
    """What a game asks for: classes in the engine's words without spaces or capitals (`alarmclock`, `sidetable`).

    `receptacle` is None for Look, `lamp` is None for all others.
    """

    task_type: TaskType
    object_class: str
    receptacle: str | None = None
    lamp: str | None = None


@dataclass(frozen=True)
class Situation:
    """What is the case in a running game after its start or a command. Frozen, picklable.

    A player may be told `feedback`, `scene`, `goal_text` and `admissible`, and may be shown what `facts` say of the
    place where the agent stands. `facts` are the whole true state, closed receptacles included; `next_command` and
    `conditions_met` are for scripted policies and rewards: an observation must use none of them.

    Attributes:
        feedback: what the engine said to the last command; after the start, its welcome with the room and the task.
        scene: what `look` says here and now, without spending a step: where the agent is and what stands around it;
            at a receptacle also what is in view in or on it.
        goal_text: the task in words ("put a hot mug in coffeemachine.").
        admissible: the legal commands, sorted, each once.
        facts: the true state, sorted; objects by the names that commands use (`apple 1`), places as `loc 3`.
        location: the place where the agent stands, as in `facts`.
        at: the receptacles at that place, sorted; empty in the middle of the room.
        held: what the agent holds, or None.
        won: whether the goal is reached.
        done: whether the game is over: won, or the engine has ended it. The step limit is the environment's matter.
        steps: commands given since the start, illegal ones included.
        conditions_met: the share of the goal's conditions that hold now, in [0, 1]; 1 exactly when won.
        goal: what the game asks for.
        game_file: the path of its `game.tw-pddl`.
        source: whether the game was generated or is the benchmark's own.
        next_command: the stored walkthrough's next command; None once the game has left it, or without one.
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
