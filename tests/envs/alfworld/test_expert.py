"""The planner and the explorer."""

from dataclasses import replace

import numpy as np
import pytest

from rl4vlm.envs.alfworld.expert import advise, explore
from rl4vlm.envs.alfworld.types import Goal, TaskType
from tests.envs.alfworld.situations import HEAT_MUG, OPENABLE, PLACES, situation

PICK = Goal(TaskType.PICK, "mug", "desk")
PICK2 = Goal(TaskType.PICK2, "mug", "countertop")
LOOK = Goal(TaskType.LOOK, "mug", lamp="desklamp")
COOL = Goal(TaskType.COOL, "mug", "desk")
CLEAN = Goal(TaskType.CLEAN, "mug", "desk")


def commands(now):
    """The admissible commands of a hand-made situation, by the rules."""
    opened = {fact[1] for fact in now.facts if fact[0] == "opened"}
    inside = [fact[1:] for fact in now.facts if fact[0] == "inreceptacle"]
    found = ["look", "inventory", *(f"go to {place}" for place in PLACES)]
    for place in now.at:
        if place in OPENABLE:
            found.append(f"close {place}" if place in opened else f"open {place}")
        if place in OPENABLE and place not in opened:
            continue
        if now.held:
            found.append(f"move {now.held} to {place}")
        else:
            found += [f"take {thing} from {where}" for thing, where in inside if where == place]
    for thing, where in inside:
        if thing.startswith("desklamp") and where in now.at:
            found.append(f"use {thing}")
    for station, verb in (("sinkbasin 1", "clean"), ("microwave 1", "heat"), ("fridge 1", "cool")):
        if now.held and station in now.at:
            found.append(f"{verb} {now.held} with {station}")
    return tuple(sorted(found))


def advised(inside, **options):
    now = situation(inside, **options)
    now = situation(inside, **{**options, "admissible": commands(now)})
    command, thoughts = advise(now)
    assert command in now.admissible
    return command, thoughts


@pytest.mark.parametrize(
    ("goal", "inside", "options", "command"),
    [
        (PICK, {"cabinet 2": ["mug 1"]}, {}, "go to cabinet 2"),
        (PICK, {"cabinet 2": ["mug 1"]}, {"at": "cabinet 1"}, "open cabinet 2"),
        (PICK, {"cabinet 2": ["mug 1"]}, {"at": "cabinet 1", "opened": ["cabinet 2"]}, "take mug 1 from cabinet 2"),
        (PICK, {}, {"held": "mug 1"}, "go to desk 1"),
        (PICK, {}, {"held": "mug 1", "at": "desk 1"}, "move mug 1 to desk 1"),
        # The second object goes where the first one is, and the first one stays there.
        (PICK2, {"countertop 2": ["mug 1"], "desk 1": ["mug 2"]}, {}, "go to desk 1"),
        (PICK2, {"countertop 2": ["mug 1"]}, {"held": "mug 2", "at": "countertop 1"}, "go to countertop 2"),
        (LOOK, {"desk 1": ["desklamp 1"]}, {"held": "mug 1"}, "go to desk 1"),
        (LOOK, {"desk 1": ["desklamp 1"]}, {"held": "mug 1", "at": "desk 1"}, "use desklamp 1"),
        (HEAT_MUG, {}, {"held": "mug 1"}, "go to microwave 1"),
        (HEAT_MUG, {}, {"held": "mug 1", "at": "microwave 1"}, "heat mug 1 with microwave 1"),
        (HEAT_MUG, {}, {"held": "mug 1", "states": [("ishot", "mug 1")]}, "go to countertop 1"),
        # In place but cold: it is taken up again.
        (HEAT_MUG, {"countertop 1": ["mug 1"]}, {"at": "countertop 1"}, "take mug 1 from countertop 1"),
        # A hot one comes before a near one.
        (
            HEAT_MUG,
            {"countertop 1": ["mug 1"], "desk 1": ["mug 2"]},
            {"at": "countertop 1", "states": [("ishot", "mug 2")]},
            "go to desk 1",
        ),
        (COOL, {}, {"held": "mug 1", "at": "fridge 1", "states": [("ishot", "mug 1")]}, "cool mug 1 with fridge 1"),
        (CLEAN, {}, {"held": "mug 1", "at": "sinkbasin 1"}, "clean mug 1 with sinkbasin 1"),
        # What is not wanted is put down where it is allowed.
        (PICK, {"desk 1": ["mug 1"]}, {"held": "apple 1", "at": "countertop 1"}, "move apple 1 to countertop 1"),
    ],
)
def test_the_next_step_of_each_type(goal, inside, options, command):
    assert advised(inside, goal=goal, **options)[0] == command


def test_the_walkthrough_comes_first_while_play_is_on_it():
    inside = {"countertop 1": ["mug 1"]}
    assert advised(inside, next_command="go to fridge 1")[0] == "go to fridge 1"
    assert advised(inside, next_command="eat the fridge")[0] == "go to countertop 1"


def test_both_wordings_of_putting_are_used():
    now = situation({}, held="mug 1", at="desk 1", goal=PICK, admissible=("look", "put mug 1 in/on desk 1"))
    assert advise(now)[0] == "put mug 1 in/on desk 1"


def test_thoughts_say_place_and_hand_and_why():
    _, thoughts = advised({}, held="mug 1", at="cabinet 1")
    assert thoughts == "I am at cabinet 1 and cabinet 2 and hold mug 1. The mug must be hot first."
    _, thoughts = advised({"cabinet 2": ["mug 1"]}, at="cabinet 1")
    assert thoughts == "I am at cabinet 1 and cabinet 2 and hold nothing. The cabinet 2 is shut, so I open it."
    _, thoughts = advised({"desk 1": ["mug 1"]})
    assert thoughts == "I am at no receptacle and hold nothing. The task needs a mug, so I look for one."


def test_without_facts_the_thoughts_follow_from_the_command_and_what_is_held():
    """The backend `thor` reports no facts, and its own expert gives the command."""

    def thoughts(command, held=None):
        now = situation({}, held=held, admissible=(command,), next_command=command)
        return advise(replace(now, facts=(), at=(), location=""))[1]

    assert thoughts("go to desk 1") == "I hold nothing. The task needs a mug, so I look for one."
    assert thoughts("take mug 1 from desk 1") == "I hold nothing. The task needs a mug, and it is here."
    assert thoughts("go to microwave 1", "mug 1") == "I hold mug 1. The mug must be hot first."
    assert thoughts("go to countertop 1", "mug 1") == "I hold mug 1. Next it goes to a countertop."


def test_nothing_to_be_done_is_no_error():
    assert advised({})[0] == "look"


def explored(inside, seeds=40, **options):
    """Every command that the explorer may give in a situation."""
    now = situation(inside, **options)
    now = situation(inside, **{**options, "admissible": commands(now)})
    return {explore(now, np.random.default_rng(seed))[0] for seed in range(seeds)}


def test_the_explorer_does_the_same_wherever_hidden_things_are():
    for at in (None, "desk 1", "cabinet 1"):
        options = {"at": at, "goal": PICK, "next_command": "go to fridge 1"}
        found = [explored({place: ["mug 1"]}, **options) for place in ("fridge 1", "countertop 2", "cabinet 2")]
        assert found[0] == found[1] == found[2]


def test_the_explorer_does_not_know_which_distant_places_are_open():
    # A plate is not wanted and goes to a cabinet, the desk or a countertop: to none sooner because it is open.
    found = [explored({}, held="plate 1", goal=PICK, opened=names) for names in ((), ("cabinet 1", "cabinet 2"))]
    assert found[0] == found[1]


def test_the_explorer_looks_everywhere_and_opens_what_is_shut():
    assert explored({"fridge 1": ["mug 1"]}, goal=PICK) == {f"go to {place}" for place in PLACES}
    assert explored({"fridge 1": ["mug 1"]}, at="fridge 1", goal=PICK) == {"open fridge 1"}


def test_the_explorer_acts_on_what_is_in_view():
    here = {"desk 1": ["mug 1", "desklamp 1"]}
    assert explored(here, at="desk 1", goal=COOL) == {"take mug 1 from desk 1"}
    assert explored(here, at="desk 1", held="mug 2", goal=LOOK) == {"use desklamp 1"}
    assert (
        explored({"countertop 1": ["mug 1"]}, at="countertop 1", goal=PICK2) - {f"go to {p}" for p in PLACES} == set()
    )
    assert explored({}, held="mug 1", goal=HEAT_MUG) == {"go to microwave 1"}


def test_the_explorer_needs_to_be_told_what_is_in_view():
    now = situation({}, admissible=("look",))
    with pytest.raises(ValueError, match="textworld"):
        explore(replace(now, facts=()), np.random.default_rng(0))
