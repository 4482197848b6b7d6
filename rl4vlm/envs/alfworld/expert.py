"""The scripted experts of ALFWorld: in any situation they name one command that makes sense for the goal.

The planner plays the stored walkthrough or, once play has left it, a plan of its own. It knows the whole true state, so
it is an upper bound that no player can observe. The explorer knows only what the image and the prompt show and searches
for the rest. A player can therefore learn from its demonstrations.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from rl4vlm.envs.alfworld.goals import TREATED, class_of
from rl4vlm.envs.alfworld.library import load
from rl4vlm.envs.alfworld.observation import natural_order
from rl4vlm.envs.alfworld.types import Situation, TaskType

STATIONS = {TaskType.CLEAN: "sinkbasin", TaskType.HEAT: "microwave", TaskType.COOL: "fridge"}
VERBS = {TaskType.CLEAN: "clean", TaskType.HEAT: "heat", TaskType.COOL: "cool"}
WORDS = {TaskType.CLEAN: "clean", TaskType.HEAT: "hot", TaskType.COOL: "cold"}


def advise(situation: Situation) -> tuple[str, str]:
    """The planner's admissible command, and thoughts that explain it.

    The thoughts say where the agent is, what it holds (as the image shows) and what comes next.
    """
    command = situation.next_command
    if command not in situation.admissible:
        command = Planner(situation).next_command()
    if not situation.facts:  # the backend `thor` reports none, and has an expert of its own
        command = command or "look"
        return command, f"I hold {situation.held or 'nothing'}. {_reason(situation, command)}"
    return command, _thoughts(situation, command)


def explore(situation: Situation, rng: np.random.Generator) -> tuple[str, str]:
    """The explorer's command and thoughts. `rng` chooses where it searches next.

    Raises:
        ValueError: the backend does not report what is in view.
    """
    if not situation.facts:
        raise ValueError("the explorer needs a backend that reports what is in view: use backend 'textworld'")
    command = Explorer(situation, rng).next_command()
    return command, _thoughts(situation, command)


def _thoughts(situation: Situation, command: str) -> str:
    return f"{place_and_hand(situation)} {_reason(situation, command)}"


def place_and_hand(situation: Situation) -> str:
    """One sentence about the agent's place and the object in its hand."""
    return f"I am at {places(situation)} and hold {situation.held or 'nothing'}."


def places(situation: Situation) -> str:
    """The receptacles at the agent's place, in the order of the image; `no receptacle` in the middle of the room."""
    return " and ".join(sorted(situation.at, key=natural_order)) or "no receptacle"


class Planner:
    """Finds the next command from the facts of a situation."""

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
        """A command that leads towards the goal, or `look` if there is none."""
        held, now = self.now.held, self.now
        if held is not None and class_of(held) != self.goal.object_class:  # the agent can hold only one object
            return self._put_away(held)
        if held is None:
            return self._fetch()
        if self.goal.task_type is TaskType.LOOK:
            return self._switch_on()
        if self.goal.task_type in STATIONS and held not in self.treated:
            station = self._nearest_of(STATIONS[self.goal.task_type])
            return self._at(station, [f"{VERBS[self.goal.task_type]} {held} with {station}"])
        target = self._target()
        # Without a receptacle of the goal's class, no command leads there: give any.
        return now.admissible[0] if target is None else self._put(held, target)

    def _fetch(self) -> str:
        """Go to an object of the goal's class, open its receptacle and take it."""
        # Pick2 needs two objects in one receptacle: one that already lies there must stay.
        target = self._target() if self.goal.task_type is TaskType.PICK2 else None
        wanted = [
            thing
            for thing, place in self.inside.items()
            if class_of(thing) == self.goal.object_class and place != target and place in self.receptacles
        ]
        # First the objects that are already treated, then those at the agent's place.
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
        """What to do if no object of the needed class is known."""
        return "look"

    def _target(self) -> str | None:
        """The receptacle for the goal's objects: the one that holds most of them, then one at the agent's place."""
        goal = self.goal
        of_class = [name for name in self.receptacles if class_of(name) == goal.receptacle]
        there = [place for thing, place in self.inside.items() if class_of(thing) == goal.object_class]
        of_class.sort(key=lambda name: (-there.count(name), name not in self.now.at, natural_order(name)))
        return of_class[0] if of_class else None

    def _put_away(self, held: str) -> str:
        """Put down an object that the goal does not need: here if possible, else in the first receptacle that fits."""
        here = [command for command in self.now.admissible if command.startswith((f"move {held} to", f"put {held} "))]
        if here:
            return here[0]
        kinds = _takers(class_of(held))
        takers = [name for name in self.receptacles if class_of(name) in kinds]
        takers.sort(key=lambda name: (name not in self.now.at, name in self.shut, natural_order(name)))
        return self._put(held, takers[0]) if takers else "look"

    def _put(self, thing: str, target: str) -> str:
        # Today's grammar says `move`, that of the benchmark's files `put`.
        words = [f"move {thing} to {target}", f"put {thing} in/on {target}"]
        return self._at(target, words, uncover=True)

    def _nearest_of(self, kind: str) -> str:
        found = [name for name in self.receptacles if class_of(name) == kind]
        return min(found, key=lambda name: (name not in self.now.at, natural_order(name)), default=kind)

    def _at(self, place: str, commands: Iterable[str], *, uncover: bool = False) -> str:
        """Go to a place, open it if `uncover` is set, and there give the first admissible one of `commands`."""
        # One step at a time: the next call starts from the situation that this command leads to.
        if place not in self.now.at:
            wanted: list[str] = [f"go to {place}"]
        elif uncover and place in self.shut:
            wanted = [f"open {place}"]
        else:
            wanted = list(commands)
        return next((command for command in wanted if command in self.now.admissible), "look")


class Explorer(Planner):
    """A planner without memory that knows only the objects in view, and searches for others at random places."""

    def __init__(self, situation: Situation, rng: np.random.Generator) -> None:
        super().__init__(situation)
        self.inside = {
            thing: place for thing, place in self.inside.items() if place in self.now.at and place not in self.shut
        }
        self.shut &= set(self.now.at)  # a player cannot see from afar which receptacles are closed
        self._rng = rng

    def _search(self) -> str:
        """Open a closed receptacle here, or go to another place."""
        shut = [f"open {place}" for place in self.now.at if f"open {place}" in self.now.admissible]
        places = [command for command in self.now.admissible if command.startswith("go to ")]
        return shut[0] if shut else places[int(self._rng.integers(len(places)))] if places else "look"


def _takers(class_name: str) -> set[str]:
    """The classes of receptacles that may hold a class of objects, from ALFWorld's own table."""
    table = load("alfworld.gen.constants").VAL_RECEPTACLE_OBJECTS
    return {taker.lower() for taker, taken in table.items() if class_name in {thing.lower() for thing in taken}}


def _reason(situation: Situation, command: str) -> str:
    """The reason for a command, from a template for its verb."""
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
            return _reason_to_go(situation, rest.removeprefix("to "))
    return "There is nothing better to do."


def _reason_to_go(situation: Situation, place: str) -> str:
    goal, held = situation.goal, situation.held
    if held is None:
        return f"The task needs a {goal.object_class}, so I look for one."
    if class_of(held) != goal.object_class:
        return f"The task does not need a {class_of(held)}, so I put it away."
    if goal.lamp is not None:
        return f"Next I need the {goal.lamp}."
    if goal.task_type in STATIONS:
        # Without facts, where the expert goes tells whether the object has been treated.
        treated = class_of(place) != STATIONS[goal.task_type]
        if situation.facts:
            treated = any(fact[:2] == (TREATED[goal.task_type], held) for fact in situation.facts)
        if not treated:
            return f"The {class_of(held)} must be {WORDS[goal.task_type]} first."
    return f"Next it goes to a {goal.receptacle}."
