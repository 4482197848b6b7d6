"""The environment: reproducible, picklable, and it shows a player no more than the player may see."""

import gc
import hashlib
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import cast

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rl4vlm.core.types import Outcome, Reply, SplitStepEnv, Style
from rl4vlm.envs.alfworld.drawn import DrawnBackend
from rl4vlm.envs.alfworld.env import MAX_STEPS, ALFWorldEnv
from rl4vlm.envs.alfworld.games import read_game
from rl4vlm.envs.alfworld.observation import read_room
from rl4vlm.envs.alfworld.types import TaskType
from rl4vlm.interaction.parse import parse_reply
from rl4vlm.interaction.play import Slot, advance
from rl4vlm.interaction.prompt import render, write_reply
from rl4vlm.tasks.registry import get_task, get_task_entry
from tests.envs.alfworld.random_walk import alfworld_env, play
from tests.fakes import FakePolicy

TASK = get_task("ALFWorld")
pytestmark = pytest.mark.usefixtures("warm_pool")


def digest(env, seed, choices):
    """A digest of everything that an episode shows."""
    found = hashlib.sha256()
    image, info = env.reset(seed=seed)
    found.update(image.tobytes() + repr(sorted(info.items())).encode())
    for _ in range(12):
        image, reward, terminated, truncated, info = env.step(int(choices.integers(env.action_space.n)))
        found.update(
            image.tobytes() + repr((reward, terminated, truncated, info, env.view(), env.expert_action())).encode()
        )
        if terminated or truncated:
            break
    return found.hexdigest()


def digests(data, seeds):
    env = alfworld_env(data=data)
    found = [digest(env, seed, np.random.default_rng(seed)) for seed in seeds]
    env.close()
    return found


def test_gymnasiums_checker_finds_nothing(generated):
    env = gymnasium.make(get_task_entry("ALFWorld").gym_id, data=generated, task_types=["Look"])
    check_env(env.unwrapped, skip_close_check=True)
    env.close()


def test_it_is_made_by_its_id(generated):
    env = gymnasium.make("alfworld/ALFWorld-v0", data=generated, split="valid_unseen")
    image, info = env.reset(seed=0)
    assert (image.shape, image.dtype) == ((300, 300, 3), np.uint8)
    assert (info["source"], info["pictures"]) == ("generated", "drawn")
    made = cast(ALFWorldEnv, env.unwrapped)
    assert made.action_space.n == len(info["admissible_commands"]) == len(made.view().actions)
    env.close()


def test_a_seed_makes_the_episode_here_and_in_another_process(generated):
    here = digests(generated, range(2))
    assert len(set(here)) == 2
    script = f"from tests.envs.alfworld.test_env import digests; print(*digests({str(generated)!r}, range(2)))"
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    root = Path(__file__).parents[3]
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment, cwd=root
    )
    assert told.stdout.split() == here


@pytest.mark.parametrize("split", ["train", "valid_seen", "valid_unseen"])
def test_the_expert_action_wins_every_generated_game(make, split):
    env = make(split=split)
    for file in env.games.files:
        env.reset(options={"game": str(file)})
        advised, total = 0, 0.0
        check_map(env)
        while not env._over:
            _, reward, terminated, _, info = play(env, env.expert_action().action)
            advised, total = advised + 1, total + reward
        assert terminated
        assert info["won"]
        assert info["goal_condition_success_rate"] == 1.0
        assert total >= 51
        assert TASK.succeeded(total, info)


def test_after_random_commands_the_expert_action_still_wins(make):
    env = make()
    choices = np.random.default_rng(0)
    for file in env.games.files:
        env.reset(options={"game": str(file)})
        for _ in range(8):
            if not env._over:
                env.step(int(choices.integers(env.action_space.n)))
        while not env._over:
            _, _, terminated, _, info = play(env, env.expert_action().action)
        assert terminated, (file, info)


def test_reward_is_50_for_the_win_and_the_share_of_conditions_before(make):
    env = make()
    heat = next(file for file in env.games.files if "pick_heat" in str(file))
    env.reset(options={"game": str(heat)})
    earned = {}
    while not env._over:
        action = env.expert_action().action
        _, reward, *_ = play(env, action)
        earned[action.split()[0]] = reward
    assert earned["go"] == pytest.approx(1 / 3)  # on the way to the goal it is hot, but in no place
    assert earned["heat"] == pytest.approx(1 / 3)
    assert earned.get("move", earned.get("put")) == 51


def test_an_episode_is_cut_off_after_50_steps(make):
    env = make()
    env.reset(seed=1)
    ends = [play(env, "look")[2:4] for _ in range(MAX_STEPS)]
    assert ends == [(False, False)] * (MAX_STEPS - 1) + [(False, True)]
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(0)


def test_no_admissible_command_costs_one_and_plays_a_random_one(make):
    slot = Slot(make(), TASK, Style.COT, TASK.prompt, 3, endless=False)
    step = slot.play(Reply('{"action": "fly to the moon"}'))
    assert step.parsed.outcome is Outcome.NO_LEGAL_ACTION
    assert step.fallback
    assert step.action in step.request.view.actions
    assert step.reward == pytest.approx(step.info["goal_condition_success_rate"] - 1)


def test_results_are_counted_by_the_six_types():
    assert TASK.groups == tuple(task_type.value for task_type in TaskType)


def test_only_whole_commands_match():
    actions = ("go to shelf 1", "go to shelf 10", "look", "take mug 1 from shelf 10")
    for action in actions:
        assert parse_reply(write_reply({}, action, Style.ACTION_ONLY), actions).action == action
    assert parse_reply('{"action": "go to shelf 100"}', actions).action is None
    assert parse_reply('{"action": "go to shelf 10"}', ("go to shelf 1",)).action is None
    assert parse_reply('{"action": "take mug 1 from shelf 1"}', actions).action is None


def test_put_in_or_on_names_a_move(make):
    env = make()
    env.reset(seed=2)
    while not env.view().aliases:
        play(env, env.expert_action().action)
    for said, action in env.view().aliases.items():
        assert action in env.view().actions
        assert said.split()[1:3] == action.split()[1:3]


def test_the_prompt_holds_task_scene_and_commands(make):
    env = make()
    env.reset(seed=2)
    place = next(action for action in env.view().actions if action.startswith("go to"))
    play(env, place)
    prompt = render(TASK.prompt, env.view(), Style.COT)
    now = env._situation
    assert f"Your task: {now.goal_text}" in prompt
    assert " ".join(now.scene.split()) in prompt
    assert all(f'"{action}"' in prompt for action in now.admissible)
    assert '"thoughts"' in prompt
    assert '"thoughts"' not in render(TASK.prompt, env.view(), Style.ACTION_ONLY)


def test_the_scenes_text_can_be_hidden(make):
    shown, hidden = make(), make(show_text=False)
    for env in (shown, hidden):
        env.reset(seed=2)
        play(env, "look")
    text = render(TASK.prompt, hidden.view(), Style.COT)
    assert "in words" not in text
    assert hidden._situation.scene not in text
    assert render(TASK.prompt, shown.view(), Style.COT) != text
    assert f"Your task: {hidden._situation.goal_text}" in text


def test_hidden_facts_change_neither_image_nor_prompt(make):
    """Other objects in places out of view change nothing that a player is shown."""
    env = make()
    for seed in range(6):
        env.reset(seed=seed)
        for _ in range(3):
            env.step(int(env.np_random.integers(env.action_space.n)))
        now = env._situation
        image, prompt = env._backend.image(), render(TASK.prompt, env.view(), Style.COT)
        shut = {f[1] for f in now.facts if f[0] == "openable"} - {f[1] for f in now.facts if f[0] == "opened"}
        facts = tuple(
            ("inreceptacle", "statue 9", fact[2])
            if fact[0] == "inreceptacle" and (fact[2] not in now.at or fact[2] in shut)
            else fact
            for fact in now.facts
        )
        assert facts != now.facts
        other = replace(
            now,
            facts=tuple(sorted(facts)),
            conditions_met=0.5,
            next_command="look",
            goal=replace(now.goal, task_type=TaskType.COOL, object_class="statue"),
        )
        env._situation = env._backend._situation = other
        assert np.array_equal(env._backend.image(), image)
        assert render(TASK.prompt, env.view(), Style.COT) == prompt
        env._situation = env._backend._situation = now


def test_a_pickled_environment_plays_on(make):
    env = make()
    env.reset(seed=4)
    play(env, "look")
    copy = pickle.loads(pickle.dumps(env))
    for _ in range(3):
        ours, theirs = play(env, env.expert_action().action), play(copy, copy.expert_action().action)
        assert np.array_equal(ours[0], theirs[0])
        assert ours[1:] == theirs[1:]
    copy.close()


def test_a_slot_goes_on_in_its_second_episode(make):
    """The explorer's advice depends on how many episodes there were since the last seed."""
    slot, other = (Slot(make(expert="explorer"), TASK, Style.COT, TASK.prompt, seed) for seed in (1, 2))
    looks = FakePolicy('"action": "look"')
    for _ in range(MAX_STEPS + 2):
        advance([slot], looks)
    other.load_state(slot.state())
    assert other.env.expert_action() == slot.env.expert_action()
    ours, theirs = ([step for _ in range(3) for step in advance([one], looks)] for one in (slot, other))
    assert [step.request.prompt for step in theirs] == [step.request.prompt for step in ours]
    assert all(np.array_equal(a.request.image, b.request.image) for a, b in zip(ours, theirs, strict=True))


def test_an_environment_that_is_dropped_leaves_the_workers(generated):
    env = alfworld_env(data=generated)
    assert isinstance(env._backend, DrawnBackend)
    game = env._backend._game
    env.reset(seed=0)
    del env
    gc.collect()
    with pytest.raises(ValueError, match="closed"):
        game.start("x")


def test_commands_can_be_sent_to_many_games_before_any_is_waited_for(make):
    together, alone = [make() for _ in range(3)], [make() for _ in range(3)]
    for seed, envs in enumerate(zip(together, alone, strict=True)):
        for env in envs:
            env.reset(seed=seed)
    assert isinstance(together[0], SplitStepEnv)
    for env in together:
        env.step_async(0)
    for one, other in zip(together, alone, strict=True):
        ours, theirs = one.step_wait(), other.step(0)
        assert np.array_equal(ours[0], theirs[0])
        assert ours[1:] == theirs[1:]


def test_steps_out_of_place(make):
    env = make()
    for call in (env.view, env.expert_action, env.perception, lambda: env.step(0)):
        with pytest.raises(gymnasium.error.ResetNeeded):
            call()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="999"):
        env.step(999)


def test_images_are_the_callers_own(make):
    env = make(render_mode="rgb_array")
    image, _ = env.reset(seed=1)
    kept = image.copy()
    image[:] = 0
    assert np.array_equal(env.render(), kept)
    assert make().render() is None


def test_official_games_with_the_old_wording_are_won_by_the_expert_action(make, official):
    env = make(data=official, split="valid_seen")
    for file in env.games.files[::8]:
        info = env.reset(options={"game": str(file)})[1]
        assert info["source"] == "official"
        assert TASK.data_source(info) == "official, drawn pictures"
        check_map(env)
        commands = []
        while not env._over:
            commands.append(env.expert_action().action)
            info = play(env, commands[-1])[4]
        assert info["won"], file
        assert not any(command.startswith("move") for command in commands)


def check_map(env):
    """Every receptacle on the map lies within reach of the place from which the game says it is used."""
    now = env._situation
    room = read_room(read_game(Path(now.game_file)).problem)
    places = {fact[1]: fact[2] for fact in now.facts if fact[0] == "receptacleatlocation"}
    spots = dict(room.spots)
    assert set(places) == {name for name, *_ in room.receptacles}
    for name, x, z in room.receptacles:
        assert np.hypot(x - spots[places[name]].x, z - spots[places[name]].z) < 3.5, (now.game_file, name)


def test_consecutive_seeds_play_every_game_once(make):
    env = make()
    games = env.game_count
    for first in (0, 2_000_000_003):
        played = [env.reset(seed=first + i)[1]["extra.gamefile"] for i in range(games)]
        assert sorted(played) == sorted(map(str, env.games.files))


def test_the_explorer_gives_the_same_expert_action_however_often_it_is_asked(make):
    """It plays without the walkthrough, from what it can see."""
    played = []
    for asked in (1, 3):
        env = make(expert="explorer")
        env.reset(seed=4)
        commands = []
        for _ in range(12):
            expert_action = [env.expert_action() for _ in range(asked)][-1]
            assert expert_action.entries["thoughts"].startswith("I am at ")
            commands.append(expert_action.action)
            if env.step(env.view().actions.index(expert_action.action))[2]:
                break
        played.append(commands)
    assert played[0] == played[1]
