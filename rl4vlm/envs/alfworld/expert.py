"""The scripted experts of ALFWorld. From any situation each names one sensible command: fetch an object that the goal
asks for, treat it, bring it, switch the lamp on.

The planner plays the stored walkthrough, and a plan of its own once play has left it. It knows the whole true state, so
it is a ceiling, never an observation. The explorer knows what the picture and the prompt show, and looks for what it
does not see: what it demonstrates can be learned from what a player is shown.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from rl4vlm.envs.alfworld.goals import class_of
from rl4vlm.envs.alfworld.library import load
from rl4vlm.envs.alfworld.observation import natural_order
from rl4vlm.envs.alfworld.types import Situation, TaskType

STATIONS = {TaskType.CLEAN: "sinkbasin", TaskType.HEAT: "microwave", TaskType.COOL: "fridge"}
VERBS = {TaskType.CLEAN: "clean", TaskType.HEAT: "heat", TaskType.COOL: "cool"}
TREATED = {TaskType.CLEAN: "isclean", TaskType.HEAT: "ishot", TaskType.COOL: "iscool"}
WORDS = {TaskType.CLEAN: "clean", TaskType.HEAT: "hot", TaskType.COOL: "cold"}


def advise(situation: Situation) -> tuple[str, str]:
    """The command to give now, one of the admissible ones, and thoughts that explain it.

    The thoughts say where the agent is and what it holds, as a player could read off the picture, and what comes next.
    """
    command = situation.next_command
    if command not in situation.admissible:
        command = Planner(situation).next_command()
    if not situation.facts:  # a backend that does not tell them
        return command or "look", "This is the next step of the task."
    return command, _thoughts(situation, command)


def explore(situation: Situation, rng: np.random.Generator) -> tuple[str, str]:
    """The explorer's command and thoughts, as `advise` gives the planner's; `rng` chooses where it looks next.

    Raises:
        ValueError: the backend does not tell what is in view.
    """
    if not situation.facts:
        raise ValueError("the explorer needs a backend that tells what is in view: textworld")
    command = Explorer(situation, rng).next_command()
    return command, _thoughts(situation, command)


def _thoughts(situation: Situation, command: str) -> str:
    return f"{place_and_hand(situation)} {_reason(situation, command)}"


def place_and_hand(situation: Situation) -> str:
    """One sentence of where the agent is and what is in its hand."""
    return f"I am at {places(situation)} and hold {situation.held or 'nothing'}."


def places(situation: Situation) -> str:
    """The receptacles at the agent's place, in the order of the picture; `no receptacle` in the middle of the room."""
    return " and ".join(sorted(situation.at, key=natural_order)) or "no receptacle"


class Planner:
    """What to do from a situation, worked out from its facts."""

    def __init__(self, situation: Situation) -> None:
        self.now = situation
        self.goal = situation.goal
        facts = situation.facts
        self.inside = {fact[1]: fact[2] for fact in facts if fact[0] == "inreceptacle"}
        self.receptacles = sorted((f[1] for f in facts if f[0] == "receptacleatlocation"), key=natural_order)
        opened = {fact[1] for fact in facts if fact[0] == "opened"}
        self.shut = {fact[1] for fact in facts if fact[0] == "openable"} - opened
        predicate = TREATED.get(self.goal.task_type)
        self.treated = {fact[1] for fact in facts if fact[0] == predicate}

    def next_command(self) -> str:
        """A command that leads towards the goal; `look` where there is nothing to be done."""
        held, now = self.now.held, self.now
        if held is not None and class_of(held) != self.goal.object_class:
            return self._put_away(held)
        if held is None:
            return self._fetch()
        if self.goal.task_type is TaskType.LOOK:
            return self._switch_on()
        if self.goal.task_type in STATIONS and held not in self.treated:
            station = self._nearest_of(STATIONS[self.goal.task_type])
            return self._at(station, [f"{VERBS[self.goal.task_type]} {held} with {station}"])
        target = self._target()
        return now.admissible[0] if target is None else self._put(held, target)

    def _fetch(self) -> str:
        """Go to, uncover and take an object of the goal's class; one that is treated already comes first."""
        target = self._target() if self.goal.task_type is TaskType.PICK2 else None
        wanted = [
            thing
            for thing, place in self.inside.items()
            if class_of(thing) == self.goal.object_class and place != target and place in self.receptacles
        ]
        wanted.sort(key=lambda thing: (thing not in self.treated, self.inside[thing] not in self.now.at, thing))
        for thing in wanted:
            return self._at(self.inside[thing], [f"take {thing} from {self.inside[thing]}"], uncover=True)
        return self._search()

    def _switch_on(self) -> str:
        lamps = [thing for thing in self.inside if class_of(thing) == self.goal.lamp]
        lamps.sort(key=lambda lamp: (self.inside[lamp] not in self.now.at, lamp))
        for lamp in lamps:
            return self._at(self.inside[lamp], [f"use {lamp}"])
        return self._search()

    def _search(self) -> str:
        """What to do where nothing that is needed is known to be anywhere."""
        return "look"

    def _target(self) -> str | None:
        """Where the goal's objects go: of its class the receptacle that holds most of them, then the nearest."""
        goal = self.goal
        of_class = [name for name in self.receptacles if class_of(name) == goal.receptacle]
        there = [place for thing, place in self.inside.items() if class_of(thing) == goal.object_class]
        of_class.sort(key=lambda name: (-there.count(name), name not in self.now.at, natural_order(name)))
        return of_class[0] if of_class else None

    def _put_away(self, held: str) -> str:
        """Get rid of a thing that is not wanted: here if that can be, else at the first place that takes its class."""
        here = [command for command in self.now.admissible if command.startswith((f"move {held} to", f"put {held} "))]
        if here:
            return here[0]
        kinds = _takers(class_of(held))
        takers = [name for name in self.receptacles if class_of(name) in kinds]
        takers.sort(key=lambda name: (name not in self.now.at, name in self.shut, natural_order(name)))
        return self._put(held, takers[0]) if takers else "look"

    def _put(self, thing: str, target: str) -> str:
        words = [f"move {thing} to {target}", f"put {thing} in/on {target}"]
        return self._at(target, words, uncover=True)

    def _nearest_of(self, kind: str) -> str:
        found = [name for name in self.receptacles if class_of(name) == kind]
        return min(found, key=lambda name: (name not in self.now.at, natural_order(name)), default=kind)

    def _at(self, place: str, commands: Iterable[str], *, uncover: bool = False) -> str:
        """Give the first admissible of `commands` at a place, after going there and, with `uncover`, opening it."""
        if place not in self.now.at:
            wanted: list[str] = [f"go to {place}"]
        elif uncover and place in self.shut:
            wanted = [f"open {place}"]
        else:
            wanted = list(commands)
        return next((command for command in wanted if command in self.now.admissible), "look")


class Explorer(Planner):
    """A planner that knows of no thing but those in view and has no memory: it looks for others anywhere, at random."""

    def __init__(self, situation: Situation, rng: np.random.Generator) -> None:
        super().__init__(situation)
        self.inside = {
            thing: place for thing, place in self.inside.items() if place in self.now.at and place not in self.shut
        }
        self.shut &= set(self.now.at)  # which of the others are is not shown
        self._rng = rng

    def _search(self) -> str:
        """Open what is shut here, else go to another place."""
        shut = [f"open {place}" for place in self.now.at if f"open {place}" in self.now.admissible]
        places = [command for command in self.now.admissible if command.startswith("go to ")]
        return shut[0] if shut else places[int(self._rng.integers(len(places)))] if places else "look"


def _takers(class_name: str) -> set[str]:
    """The classes of receptacles that may hold a class, by ALFWorld's own table."""
    table = load("alfworld.gen.constants").VAL_RECEPTACLE_OBJECTS
    return {taker.lower() for taker, taken in table.items() if class_name in {thing.lower() for thing in taken}}


def _reason(situation: Situation, command: str) -> str:
    """Why to give `command`: a template by its verb."""
    verb, _, rest = command.partition(" ")
    goal, held = situation.goal, situation.held
    match verb:
        case "take":
            return f"The task needs a {goal.object_class}, and it is here."
        case "open":
            return f"The {rest} is shut, so I open it."
        case "move" | "put":
            return f"This is where the {class_of(held or '')} goes."
        case "clean" | "heat" | "cool":
            return f"The {class_of(held or '')} must be {WORDS[TaskType(verb.capitalize())]}."
        case "use":
            return f"I look at the {class_of(held or '')} under the {class_of(rest)}."
        case "go":
            return _reason_to_go(situation)
    return "There is nothing better to do."


def _reason_to_go(situation: Situation) -> str:
    goal, held = situation.goal, situation.held
    if held is None:
        return f"The task needs a {goal.object_class}, so I look for one."
    if class_of(held) != goal.object_class:
        return f"The task does not need a {class_of(held)}, so I put it away."
    if goal.lamp is not None:
        return f"Next I need the {goal.lamp}."
    if goal.task_type in STATIONS and not any(f[:2] == (TREATED[goal.task_type], held) for f in situation.facts):
        return f"The {class_of(held)} must be {WORDS[goal.task_type]} first."
    return f"Next it goes to a {goal.receptacle}."
