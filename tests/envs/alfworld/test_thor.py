"""The backend `thor`, with a stand-in for AI2-THOR, whose Unity build would have to be downloaded."""

import json
import pickle
import queue
import shutil
import sys
import threading
from types import ModuleType

import numpy as np
import pytest

from rl4vlm.envs.alfworld import library, thor
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


class StandIn:
    """Answers like `AlfredThorEnv`, in batches of one. Its frames are BGR."""

    def __init__(self, config, train_eval):
        self.config, self.envs, self.json_file_list, self.commands = config, [], [], []
        self.closed = False
        self.queue: queue.Queue[None] = queue.Queue()
        self.worker = threading.Thread(target=self.queue.get, daemon=True)
        self.worker.start()

    def init_env(self, batch_size):
        self.get_env_paths()
        self.envs = [object()] * batch_size

    def get_env_paths(self):
        raise AssertionError("it would walk all of the data")

    def _told(self):
        won = self.commands[-1:] == ["use desklamp 1"]
        infos = {"won": [won], "admissible_commands": [["look", "use desklamp 1", "look"]]}
        infos |= {"goal_condition_success_rate": [1.0 if won else 0.5], "extra.expert_plan": [["use desklamp 1"]]}
        return infos

    def reset(self):
        self.commands = []
        (self.played,) = self.json_file_list
        return ["You are in the middle of a room."], self._told()

    def step(self, commands):
        self.commands += commands
        infos = self._told()
        return ["You turn it on."], None, infos["won"], infos

    def get_frames(self):
        frame = np.zeros((1, 200, 200, 3), np.uint8)
        frame[..., 0] = 200
        return frame

    def close(self):
        self.closed = True
        self.queue.put(None)


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
    assert env._backend._env.played == info["extra.gamefile"].replace("game.tw-pddl", "traj_data.json")
    assert env.view().actions == ("look", "use desklamp 1")
    assert "the middle of a room" in env.view().fields["scene"]
    assert env.step(0)[1] == 0.5
    assert env.expert_action().action == "use desklamp 1"
    assert env.perception() == {}
    _, reward, terminated, _, info = env.step(1)
    assert (reward, terminated, info["won"]) == (51.0, True, True)
    simulator = env._backend._env
    env.close()
    assert simulator.closed


def test_a_saved_episode_is_replayed(full_games, stand_in):
    """The simulator holds a thread and a queue, which no pickle can."""
    env = alfworld_env(data=full_games, backend="thor")
    pickle.loads(pickle.dumps(env)).close()  # before the first episode
    env.reset(seed=0)
    env.step(0)
    again = pickle.loads(pickle.dumps(env))
    assert isinstance(env._backend, thor.ThorBackend)
    assert isinstance(again._backend, thor.ThorBackend)
    assert again._backend._env is not env._backend._env
    assert again._backend._env.played == env._backend._env.played
    assert again._backend._env.commands == ["look"]
    assert again.view() == env.view()
    assert again._backend.receive() == env._backend.receive()
    for one in (env, again):
        assert one.step(1)[2]
        one.close()
