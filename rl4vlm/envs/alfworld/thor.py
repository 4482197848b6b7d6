"""The backend `thor`: frames of AI2-THOR from ALFWorld's `AlfredThorEnv`. It needs `alfworld[vis]`.

It also needs ALFWorld's data, since scenes are restored from `traj_data.json`, and AI2-THOR's Unity build, which it
downloads itself. Generated games cannot be played. `AlfredThorEnv` reports no facts and has its own handcoded expert.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from rl4vlm.envs.alfworld.games import TRAJECTORY, BadGame, read_game
from rl4vlm.envs.alfworld.types import Images, Situation
from rl4vlm.envs.render import SIDE

INSTALL = "pip install 'alfworld[vis]==0.4.2'"
STEPS = 1000
"""A step limit that is never reached: `ALFWorldEnv` has its own."""
TAKE, PUT = re.compile(r"take (.+) from .+"), re.compile("(?:put|move) ")
NOTHING = "Nothing happens"
"""The answer to a command that does not work."""
NO_RESULT = ()
"""Takes the place of the last result. Otherwise `AlfredThorEnv` would give that again when the simulator has failed."""


class ThorBackend:
    """Runs games in AI2-THOR. The simulator starts with the first game and stays until `close`.

    The simulator cannot be pickled. A pickle holds the game file and the commands given, which are replayed when it is
    unpickled.

    `AlfredThorEnv` talks to its simulator in a thread, which ends without a word when the simulator fails.
    """

    images: ClassVar[Images] = Images.FRAMES

    def __init__(self) -> None:
        _thor_class()  # fail here, not at the first game, if it is not installed
        self._env: Any = None
        self._situation: Situation | None = None
        self._sent = False
        self._held: str | None = None
        self._game: Any = None
        self._commands: list[str] = []

    def start(self, game_file: str) -> Situation:
        """Start a game. Raises BadGame if its files do not describe the scene, or the simulator fails on it."""
        self._game = read_game(Path(game_file))
        trajectory = Path(game_file).with_name(TRAJECTORY)
        if '"object_poses"' not in trajectory.read_text(encoding="utf-8"):
            raise BadGame(
                f"{trajectory}: backend 'thor' needs ALFWorld's own data, with the scene's object_poses; a game that "
                "was generated, or reduced to what the text engine reads, needs backend 'textworld'"
            )
        if self._env is None:
            self._env = _thor_class()(_config(), train_eval="train")
        self._env.json_file_list = [str(trajectory)]  # the next reset plays the first file of this list
        if not self._env.envs:
            # `init_env` would search all data for games and replace the list above.
            self._env.get_env_paths = lambda: None
            self._env.init_env(batch_size=1)
        self._commands, self._sent, self._held = [], False, None
        self._env.envs[0]._res = NO_RESULT
        feedback, infos = self._answer(self._env.reset)
        return self._record(feedback[0], infos, steps=0)

    def send(self, command: str) -> None:
        """Give a command without waiting for the simulator, so that the simulators of a batch run at the same time."""
        assert self._situation is not None
        self._commands.append(command)
        self._env.envs[0]._res = NO_RESULT
        self._env.action_queues[0].put((command, False, ""))
        self._sent = True

    def receive(self) -> Situation:
        """The situation after the command sent last. Raises BadGame if the simulator fails."""
        assert self._situation is not None
        if self._sent:
            self._sent = False
            feedback, _, infos = self._answer(self._env.wait_and_get_info)
            if not feedback[0].startswith(NOTHING):
                self._held = held_after(self._commands[-1], self._held)
            self._record(feedback[0], infos, steps=self._situation.steps + 1)
        return self._situation

    def image(self) -> np.ndarray:
        frame = np.ascontiguousarray(self._env.get_frames()[0][:, :, ::-1])  # BGR to RGB
        return np.array(Image.fromarray(frame).resize((SIDE, SIDE)))

    def close(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None

    def __getstate__(self) -> dict[str, Any]:
        game_file = None if self._situation is None else self._situation.game_file
        return {"game_file": game_file, "commands": self._commands}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]
        if kept["game_file"] is not None:
            self.start(kept["game_file"])
            for command in kept["commands"]:
                self.send(command)
                self.receive()

    def _answer(self, ask: Callable[[], Any]) -> Any:
        """What `ask` returns. If the simulator fails, it is stopped, and the next game starts a new one."""
        try:
            return ask()
        except ValueError as error:  # `NO_RESULT` cannot be unpacked
            with suppress(Exception):  # the simulator may be gone already
                self._env.close()
            self._env = None
            raise BadGame(f"{self._game.file}: AI2-THOR failed, as the traceback above says") from error

    def _record(self, feedback: str, infos: dict[str, Any], *, steps: int) -> Situation:
        won = bool(infos["won"][0])
        plan = infos["extra.expert_plan"][0]
        self._situation = Situation(
            feedback=feedback,
            # The first answer describes the room; later ones, only what the command did.
            scene="" if steps else feedback,
            goal_text=self._game.goal_text,
            admissible=tuple(sorted(set(infos["admissible_commands"][0]))),
            facts=(),  # not reported by `AlfredThorEnv`
            location="",
            at=(),
            held=self._held,
            won=won,
            done=won,
            steps=steps,
            conditions_met=float(infos["goal_condition_success_rate"][0]),
            goal=self._game.goal,
            game_file=str(self._game.file),
            source=self._game.source,
            next_command=plan[0] if plan else None,
        )
        return self._situation


def held_after(command: str, held: str | None) -> str | None:
    """What the agent holds after a command that worked: `AlfredThorEnv` does not say it."""
    if taken := TAKE.fullmatch(command):
        return taken[1]
    return None if PUT.match(command) else held


@cache
def _thor_class() -> Any:
    """The class `AlfredThorEnv`. Raises ValueError that says what to install."""
    from rl4vlm.envs.alfworld.library import load

    try:
        return load("alfworld.agents.environment.alfred_thor_env").AlfredThorEnv
    except (ValueError, ImportError) as error:
        raise ValueError(f"backend 'thor' needs AI2-THOR, which is not installed: {INSTALL} ({error})") from error


def _config() -> dict[str, Any]:
    """The settings that `AlfredThorEnv` reads, with the values of ALFWorld's base config."""
    return {
        "general": {"training_method": "dagger"},
        "dagger": {"training": {"max_nb_steps_per_episode": STEPS}},
        "dataset": {
            "data_path": "",
            "eval_id_data_path": "",
            "eval_ood_data_path": "",
            "num_train_games": -1,
            "num_eval_games": -1,
        },
        "env": {
            "task_types": [1, 2, 3, 4, 5, 6],
            "goal_desc_human_anns_prob": 0,
            "thor": {
                "screen_width": SIDE,
                "screen_height": SIDE,
                "smooth_nav": False,
                "save_frames_to_disk": False,
                "save_frames_path": "",
            },
        },
        "controller": {"type": "oracle", "debug": False, "load_receps": True},
    }
