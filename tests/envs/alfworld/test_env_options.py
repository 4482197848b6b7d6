"""The environment's options, the choice of a game, and bad games."""

import json
import re
import shutil

import gymnasium
import pytest

from rl4vlm.envs.alfworld.env import ALFWorldEnv
from rl4vlm.envs.alfworld.games import BadGame
from tests.envs.alfworld.game_files import copy_game
from tests.envs.alfworld.random_walk import alfworld_env, play

pytestmark = pytest.mark.usefixtures("warm_pool")


def test_a_game_can_be_named(make, generated):
    env = make()
    wanted = env.games.files[3]
    for name in (str(wanted), str(wanted.parent), wanted.parent.name):
        assert env.reset(options={"game": name})[1]["extra.gamefile"] == str(wanted)
    with pytest.raises(ValueError, match=r"'moon' names none of the 6 games"):
        env.reset(options={"game": "moon"})
    with pytest.raises(ValueError, match="'game': 'trial' names 6"):
        env.reset(options={"game": "trial"})
    with pytest.raises(ValueError, match="'speed'"):
        env.reset(options={"speed": 1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, "split cannot be 'test'; known: train"),
        ({"backend": "unity"}, "backend cannot be 'unity'; known: textworld, thor"),
        ({"task_types": ["Dance"]}, "unknown task type 'Dance'; known: Pick"),
        ({"task_types": []}, "task_types is empty"),
        ({"task_types": "Pick"}, r"task_types must be a list such as \['Pick', 'Heat'\], not 'Pick'"),
        ({"task_types": 3}, "task_types must be a list .*, not 3"),
        ({"task_types": [["Pick"]]}, r"task_types: unknown task type \['Pick'\]"),
        ({"show_text": "no"}, "show_text must be true or false, not 'no'"),
        ({"show_text": None}, "show_text must be true or false, not None"),
        ({"skip_bad_games": "no"}, "skip_bad_games must be true or false, not 'no'"),
        ({"skip_bad_games": 1}, "skip_bad_games must be true or false, not 1"),
        ({"data": "nowhere"}, "nowhere"),
        ({"data": 3}, "data must be the path of a folder, not 3"),
        ({"data": ["a", "b"]}, r"data must be the path of a folder, not \['a', 'b'\]"),
        ({"backend": ["thor"]}, r"backend cannot be \['thor'\]; did you mean thor"),
        ({"expert": {}}, r"expert cannot be \{\}"),
        ({"speed": 3}, "no environment option 'speed'.*show_text"),
    ],
)
def test_bad_options_are_named(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_a_wrong_render_mode_is_named():
    with pytest.raises(ValueError, match="'human'"):
        ALFWorldEnv("ALFWorld", render_mode="human")


def test_without_games_it_says_how_to_get_some(monkeypatch):
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)
    with pytest.raises(ValueError, match=r"data=FOLDER or set ALFWORLD_DATA; docs/alfworld\.md"):
        alfworld_env()


def test_the_games_may_come_from_the_benchmarks_own_variable(monkeypatch, generated):
    monkeypatch.setenv("ALFWORLD_DATA", str(generated))
    env = alfworld_env()
    assert len(env.games.files) == 6
    env.close()


def test_a_bad_game_is_an_error_that_names_it_or_is_skipped(make, generated, tmp_path):
    data = tmp_path / "games"
    shutil.copytree(generated / "train", data / "train")
    broken = sorted(data.rglob("game.tw-pddl"))[0]
    broken.write_text("{")
    with pytest.raises(ValueError, match=str(broken)):
        make(data=data)
    assert len(make(data=data, skip_bad_games=True).games.files) == 5


def test_a_game_that_cannot_be_started_is_an_error_or_skipped_and_never_drawn_again(make, generated, tmp_path, caplog):
    """Its files are well-formed, so only the engine notices. The other games are drawn as if it did not exist."""
    shutil.copytree(generated / "train", tmp_path / "train")
    files = sorted(tmp_path.rglob("game.tw-pddl"))
    for file in files[:-1]:
        content = json.loads(file.read_text())
        start = re.sub(r"\(atLocation agent1 [^)]*\)", "", content["pddl_problem"])
        file.write_text(json.dumps({**content, "pddl_problem": start}))
    env = make(data=tmp_path)
    with pytest.raises(BadGame, match=r"game\.tw-pddl: .*\(skip_bad_games: true skips it\)") as error:
        env.reset(seed=1)
    assert str(tmp_path) in str(error.value)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(0)
    with pytest.raises(BadGame, match=re.escape(str(files[0]))):
        make(data=tmp_path, skip_bad_games=True).reset(options={"game": str(files[0])})
    env = make(data=tmp_path, skip_bad_games=True)
    for _ in range(2):
        assert env.reset(seed=1)[1]["extra.gamefile"] == str(files[-1])
    skipped = [record.getMessage() for record in caplog.records if record.getMessage().startswith("skipped: ")]
    assert skipped
    assert len(skipped) == len(set(skipped))
    files[-1].write_text(files[0].read_text())
    with pytest.raises(BadGame, match="none of the 6 games can be played; the last: "):
        make(data=tmp_path, skip_bad_games=True).reset(seed=2)


def test_a_game_that_breaks_in_an_episode_ends_the_run_with_its_name(make, generated, tmp_path):
    """Even with `skip_bad_games`: dropping an episode that has begun would bias the results."""
    source = sorted((generated / "train").rglob("game.tw-pddl"))[0]
    grammar = json.loads(source.read_text())["grammar"].replace('"inventory.feedback"', '"inventory.mood"')
    file = copy_game(source, tmp_path / "train" / "a" / "trial", grammar=grammar)
    env = make(data=tmp_path, skip_bad_games=True)
    env.reset(seed=0)
    with pytest.raises(BadGame, match=r"breaks at the command 'inventory' .* skip_bad_games does not skip it") as error:
        play(env, "inventory")
    assert str(error.value).startswith(f"{file}: ")
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(0)
    env.reset(seed=0)
    play(env, "look")


def test_an_unknown_expert_is_named(make):
    with pytest.raises(ValueError, match="oracle"):
        make(expert="oracle")
