"""The ALFWorld task: questions, groups and sources of games."""

import numpy as np
import pytest

from rl4vlm.core.types import View
from rl4vlm.interaction.parse import parse_reply
from rl4vlm.tasks.alfworld import ALFWorld, aliases_of

ACTIONS = ("go to fridge 1", "go to shelf 2", "look", "take mug 1 from shelf 1", "take pan 2 from shelf 1")
SCENE = "\nThe scene in words: On the shelf 1, you see a mug 1, and a pan 2.\nThe last command was answered: a knife 1."


def answers(goal, seeds=60, scene=SCENE):
    """The answers to all questions about one prompt, by question."""
    view = View(ACTIONS, {"goal": goal, "scene": scene})
    asked = [ALFWorld().questions(view, np.random.default_rng(seed)) for seed in range(seeds)]
    assert {len(some) for some in asked} == {3}
    return {question: answer for some in asked for question, answer in some}


def test_questions_are_answered_by_the_prompts_words():
    found = answers("put a hot mug in fridge.")
    assert found["What does the task name?"] == "mug, fridge"
    assert found["How does the task want it?"] == "hot"
    assert found["What is in view?"] == "mug 1, pan 2"
    assert found["Which commands speak of what the task names?"] == '"go to fridge 1", "take mug 1 from shelf 1"'
    assert found["Which commands begin with take?"] == '"take mug 1 from shelf 1", "take pan 2 from shelf 1"'
    assert found["Which commands begin with open?"] == "none"
    assert found["Which commands speak of shelf?"].startswith('"go to shelf 2", "take mug')


def test_what_is_in_view_is_not_asked_of_a_prompt_that_does_not_say():
    told, untold = answers("put a hot mug in fridge."), answers("put a hot mug in fridge.", scene="")
    assert set(told) - set(untold) == {"What is in view?"}
    assert untold.items() <= told.items()


def test_questions_of_each_wording_name_its_things_alone():
    for goal, named, wanted in [
        ("put some spoon on desk.", "spoon, desk", "as it is"),
        ("cool some potato and put it in microwave.", "potato, microwave", "cool"),
        ("find two soapbar and put them in cabinet.", "soapbar, cabinet", "two"),
        ("examine the alarmclock with the desklamp.", "alarmclock, desklamp", "examine"),
        ("look at bowl under the desklamp.", "bowl, desklamp", "under"),
    ]:
        found = answers(goal)
        assert (found["What does the task name?"], found["How does the task want it?"]) == (named, wanted)


def test_only_official_games_in_the_benchmarks_frames_are_called_official_alone():
    said = {
        (source, images): ALFWorld().data_source({"source": source, "pictures": images})
        for source in ("generated", "official")
        for images in ("drawn", "frames")
    }
    assert said == {
        ("generated", "drawn"): "generated",
        ("generated", "frames"): "generated",
        ("official", "drawn"): "official, drawn pictures",
        ("official", "frames"): "official",
    }


def test_kept_whole_finds_names_and_verbs():
    text = '"go to shelf 10", "take mug 1 from shelf 10". {"action": "open fridge 1"}'
    assert set(ALFWorld.kept_whole.findall(text)) == {'"go to', "shelf", '"take', "mug", '"open', "fridge"}


@pytest.mark.parametrize("legal", ["move mug 1 to desk 10", "put mug 1 in/on desk 10"])
@pytest.mark.parametrize("said", ["move mug 1 to desk 10", "put mug 1 in/on desk 10", "Put mug 1 on desk 10."])
def test_move_and_put_are_the_same_command(legal, said):
    commands = ("go to desk 1", "open desk 10", legal)
    assert parse_reply(f'"action": "{said}"', commands, aliases_of(commands)).action == legal
    assert parse_reply(f'"action": "{said}"', commands[:2], aliases_of(commands[:2])).action is None
