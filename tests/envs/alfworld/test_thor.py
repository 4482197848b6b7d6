"""The backend `thor`, with a stand-in for AI2-THOR, whose Unity build would have to be downloaded."""

import json
import pickle
import queue
import shutil
import sys
import threading
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from rl4vlm.envs.alfworld import library, thor
from rl4vlm.envs.alfworld.games import BadGame
from tests.envs.alfworld.random_walk import alfworld_env

MODULE = "alfworld.agents.environment.alfred_thor_env"


@pytest.fixture(autouse=True)
def fresh_imports():
    """The process caches which modules exist, and these tests change that."""
    for cached in (library.load, thor._thor_class):
        cached.cache_clear()
    yield
    for cached in (library.load, thor._thor_class):
        cached.cache_clear()


class Simulator(threading.Thread):
    """Answers like `AlfredThorEnv.Thor`: what its queue brings, in a thread that an error ends."""

    def __init__(self):
        super().__init__(daemon=True)
        self.queue: queue.Queue = queue.Queue()
        self.commands, self.played = [], None
        self._res: tuple = ()
        self.start()

    def run(self):
        while True:
            command, reset, file = self.queue.get()
            try:
                self.commands = [] if reset else [*self.commands, command]
                self.played = file if reset else self.played
                if command == "break" or (reset and FAILING and FAILING[0] in file):
                    raise RuntimeError("Unity is gone")
                won = command == "use desklamp 1"
                told = "You are in the middle of a room." if reset else "You turn it on."
                told = "Nothing happens." if command == "look" else told
                commands = ["look", "use desklamp 1", "look", "break"]
                self._res = (told, won, commands, won, 1.0 if won else 0.5, ["use desklamp 1"])
            finally:
                self.queue.task_done()


FAILING: list[str] = []
"""A part of the path of the games on which the simulator fails."""


class StandIn:
    """Answers like `AlfredThorEnv`, in batches of one. Its frames are BGR."""

    def __init__(self, config, train_eval):
        self.config, self.envs, self.action_queues, self.json_file_list = config, [], [], []
        self.closed = False

    def init_env(self, batch_size):
        self.get_env_paths()
        self.envs = [Simulator() for _ in range(batch_size)]
        self.action_queues = [simulator.queue for simulator in self.envs]

    def get_env_paths(self):
        raise AssertionError("it would walk all of the data")

    def reset(self):
        (file,) = self.json_file_list
        self.action_queues[0].put((None, True, file))
        feedback, _, infos = self.wait_and_get_info()
        return feedback, infos

    def wait_and_get_info(self):
        self.action_queues[0].join()
        feedback, done, commands, won, met, plan = self.envs[0]._res
        infos = {"won": [won], "admissible_commands": [commands], "extra.expert_plan": [plan]}
        return [feedback], [done], {**infos, "goal_condition_success_rate": [met]}

    def get_frames(self):
        frame = np.zeros((1, 200, 200, 3), np.uint8)
        frame[..., 0] = 200
        return frame

    def close(self):
        self.closed = True


@pytest.fixture
def full_games(generated, tmp_path):
    """Games with the entry from which AI2-THOR restores a scene, as in the benchmark."""
    shutil.copytree(generated / "train", tmp_path / "train")
    for file in (tmp_path / "train").rglob("traj_data.json"):
        content = json.loads(file.read_text())
        content.setdefault("scene", {})["object_poses"] = []
        file.write_text(json.dumps(content))
    return tmp_path


@pytest.fixture
def stand_in(monkeypatch):
    module = ModuleType(MODULE)
    module.__dict__["AlfredThorEnv"] = StandIn
    monkeypatch.setitem(sys.modules, MODULE, module)


def test_without_ai2thor_it_says_what_to_install(generated, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai2thor", None)
    with pytest.raises(ValueError, match=r"backend 'thor' needs AI2-THOR.*pip install 'alfworld\[vis\]"):
        alfworld_env(data=generated, backend="thor")


def test_games_without_a_scene_to_restore_are_refused(generated, stand_in):
    env = alfworld_env(data=generated, backend="thor")
    with pytest.raises(ValueError, match=r"traj_data\.json: backend 'thor' needs.*object_poses"):
        env.reset(seed=0)


def test_an_episode(full_games, stand_in):
    env = alfworld_env(data=full_games, backend="thor")
    assert isinstance(env._backend, thor.ThorBackend)
    image, info = env.reset(seed=0)
    assert image.shape == (300, 300, 3)
    assert image[0, 0].tolist() == [0, 0, 200]
    assert info["pictures"] == "frames"
    assert env.task.data_source({**info, "source": "official"}) == "official"
    assert env._backend._env.envs[0].played == info["extra.gamefile"].replace("game.tw-pddl", "traj_data.json")
    assert env.view().actions == ("break", "look", "use desklamp 1")
    assert "the middle of a room" in env.view().fields["scene"]
    assert env.step(1)[1] == 0.5
    # The scene is described at the beginning only.
    assert env.view().fields["scene"] == "\nThe last command was answered: Nothing happens."
    assert env.expert_action().action == "use desklamp 1"
    assert env.expert_action().entries["thoughts"].startswith("I hold nothing. ")
    assert env.perception() == {}
    _, reward, terminated, _, info = env.step(2)
    assert (reward, terminated, info["won"]) == (51.0, True, True)
    simulator = env._backend._env
    env.close()
    assert simulator.closed


def test_a_saved_episode_is_replayed(full_games, stand_in):
    """The simulator holds a thread and a queue, which no pickle can."""
    env = alfworld_env(data=full_games, backend="thor")
    pickle.loads(pickle.dumps(env)).close()  # before the first episode
    env.reset(seed=0)
    env.step(1)
    again = pickle.loads(pickle.dumps(env))
    assert isinstance(env._backend, thor.ThorBackend)
    assert isinstance(again._backend, thor.ThorBackend)
    assert again._backend._env is not env._backend._env
    assert again._backend._env.envs[0].played == env._backend._env.envs[0].played
    assert again._backend._env.envs[0].commands == ["look"]
    assert again.view() == env.view()
    assert again._backend.receive() == env._backend.receive()
    for one in (env, again):
        assert one.step(2)[2]
        one.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
class TestAFailingSimulator:
    def test_in_an_episode_it_is_an_error_and_the_next_game_starts_a_new_one(self, full_games, stand_in):
        env = alfworld_env(data=full_games, backend="thor")
        env.reset(seed=0)
        env.step(2)  # won: the result that must not be given again
        env.reset(seed=0)
        with pytest.raises(BadGame, match=r"game\.tw-pddl: AI2-THOR failed"):
            env.step(0)
        assert not env.reset(seed=0)[1]["won"]
        assert env.step(2)[2]
        env.close()

    def test_at_the_start_of_a_game_that_game_can_be_skipped(self, full_games, stand_in, monkeypatch):
        env = alfworld_env(data=full_games, backend="thor", skip_bad_games=True)
        games = [env.reset(seed=seed)[1]["extra.gamefile"] for seed in range(2)]
        assert games[0] != games[1]
        monkeypatch.setattr("tests.envs.alfworld.test_thor.FAILING", [str(Path(games[0]).parent.name)])
        assert env.reset(seed=0)[1]["extra.gamefile"] != games[0]
        assert list(env.skipped) == [games[0]]
        env.close()


def test_the_simulators_of_a_batch_run_at_the_same_time(full_games, stand_in):
    env = alfworld_env(data=full_games, backend="thor")
    env.reset(seed=0)
    backend = env._backend
    assert isinstance(backend, thor.ThorBackend)
    before = backend._situation
    backend.send("look")
    assert backend._situation is before, "it has not waited for the answer"
    assert backend.receive().steps == 1
    env.close()


@pytest.mark.parametrize(
    ("command", "before", "after"),
    [
        ("take mug 1 from shelf 2", None, "mug 1"),
        ("put mug 1 in/on shelf 2", "mug 1", None),
        ("move mug 1 to shelf 2", "mug 1", None),
        ("heat mug 1 with microwave 1", "mug 1", "mug 1"),
        ("go to shelf 2", None, None),
    ],
)
def test_what_is_held_follows_from_the_commands_that_worked(command, before, after):
    assert thor.held_after(command, before) == after
