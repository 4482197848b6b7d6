"""ALFWorld as a Gymnasium environment: it plays the games of a folder in one of two backends."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces

from rl4vlm.core.nearest import did_you_mean
from rl4vlm.core.seeding import stream
from rl4vlm.core.types import ExpertAction, GameSkipped, View
from rl4vlm.envs.alfworld import expert as experts
from rl4vlm.envs.alfworld.drawn import DrawnBackend
from rl4vlm.envs.alfworld.games import SPLITS, BadGame, GameSet, find_games, split_folder
from rl4vlm.envs.alfworld.observation import marks_of
from rl4vlm.envs.alfworld.thor import ThorBackend
from rl4vlm.envs.alfworld.types import Images, Situation, TaskType
from rl4vlm.envs.render import SIDE
from rl4vlm.tasks.alfworld import aliases_of
from rl4vlm.tasks.registry import get_task

EXPERTS = ("planner", "explorer")
MAX_STEPS = 50
WIN = 50.0
_LOG = logging.getLogger(__name__)


class Backend(Protocol):
    """Runs a game and shows it. Between `send` and `receive`, commands can be sent to other games.

    `image` returns a new array, (300, 300, 3) uint8. `images` says whether they are drawings or frames. `close` frees
    all resources.
    """

    images: ClassVar[Images]

    def start(self, game_file: str) -> Situation: ...

    def send(self, command: str) -> None: ...

    def receive(self) -> Situation: ...

    def image(self) -> np.ndarray: ...

    def close(self) -> None: ...


BACKENDS: dict[str, Callable[[], Backend]] = {"textworld": DrawnBackend, "thor": ThorBackend}


class ALFWorldEnv(gymnasium.Env[np.ndarray, int]):
    """A household game of ALFWorld (Shridhar et al. 2021), with the rewards of the RL4VLM paper's public code.

    Observation: an image, (300, 300, 3) uint8. Action: the index of an admissible command in `view().actions`; the
    commands change with the situation, and `action_space` with them. Reward of a step: 50 if the game is won, plus the
    fraction of the goal's conditions that hold. An episode terminates when the game is won and is truncated after 50
    steps. `info`: `won`, `goal_condition_success_rate`, `admissible_commands`, `extra.gamefile`, `task_type`, `source`,
    `pictures`.

    `reset(seed=…)` reproduces the game and the whole episode. Consecutive seeds play every game of the split once
    before any game comes again; `reset()` draws a game at random. `reset(options={"game": …})` plays one game, named by
    the path of its file or folder, or by a part of its path below the split's folder that no other game shares.

    Args:
        task: name of a registered task.
        data: folder of games in the layout of `ALFWORLD_DATA`, whose value is the default.
        split: `train`, `valid_seen` or `valid_unseen`.
        backend: `textworld` (ALFWorld's text engine, images drawn by this project) or `thor` (frames of AI2-THOR).
        task_types: which of the six task types to play.
        show_text: whether the prompt describes the scene in words. Otherwise only the image shows it.
        expert: who answers `expert_action`: `planner`, which knows where everything is, or `explorer`, which knows only
            what the player is shown.
        skip_bad_games: skip games that cannot be read or started; otherwise such a game is an error. In place of one
            that cannot be started, another is drawn at random. A game that breaks in the middle of an episode is always
            an error.
        render_mode: None or `rgb_array`.

    Attributes:
        replaces_skipped: whether another game is drawn in place of one that cannot be started (the default). If False,
            `reset` raises GameSkipped instead, so that no game is played twice.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 2}  # noqa: RUF012 (as gymnasium has it)
    choices: ClassVar[Mapping[str, Sequence[Any]]] = {
        "backend": tuple(BACKENDS),
        "split": SPLITS,
        "expert": EXPERTS,
        **dict.fromkeys(["show_text", "skip_bad_games"], (True, False)),
        "task_types": [task_type.value for task_type in TaskType],
    }

    def __init__(
        self,
        task: str,
        data: str | Path | None = None,
        split: str = "train",
        backend: str = "textworld",
        task_types: Collection[str] = tuple(TaskType),
        show_text: bool = True,
        skip_bad_games: bool = False,
        expert: str = "planner",
        render_mode: str | None = None,
    ) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(f"render_mode must be 'rgb_array' or None, not {render_mode!r}")
        for name, word in (("backend", backend), ("split", split), ("expert", expert)):
            if word not in self.choices[name]:
                raise ValueError(f"{name} cannot be {word!r}; {did_you_mean(word, self.choices[name])}")
        for name, switch in (("show_text", show_text), ("skip_bad_games", skip_bad_games)):
            if not isinstance(switch, bool):
                raise ValueError(f"{name} must be true or false, not {switch!r}")
        self.task = get_task(task)
        self.data = _data_folder(data)
        self.split = split
        self.games = _games(str(self.data), split, check_task_types(task_types), skip_bad_games)
        self.show_text = show_text
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)
        self.action_space: spaces.Discrete = spaces.Discrete(1)  # type: ignore[assignment]
        self._backend = BACKENDS[backend]()
        self._situation: Situation | None = None
        self._over = True
        self._expert = expert
        self._skip_bad_games = skip_bad_games
        self.replaces_skipped = True
        self._bad: dict[Path, str] = {}  # games that could not be started, with the reasons
        self._episode = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start a game.

        Raises:
            ValueError: an option is unknown, or the option `game` names no game or several.
            GameSkipped: the game cannot be started, and is skipped without another in its place.
        """
        super().reset(seed=seed)
        # Counts episodes since the last seed, so that the explorer's stream repeats after `reset(seed=…)`.
        self._episode = 1 if seed is not None else self._episode + 1
        self._over = True
        # A game is drawn even if the option `game` names one, so that the random stream advances equally.
        drawn, chosen = self._draw() if seed is None else self._game_of(seed), self._chosen(options)
        self._set(self._started(drawn) if chosen is None else self._backend.start(str(chosen)))
        self._over = False
        return self._backend.image(), self._info()

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.step_async(action)
        return self.step_wait()

    def step_async(self, action: int) -> None:
        """Send a command. Commands can be sent to other environments before `step_wait` waits for the outcome."""
        if self._over:
            raise gymnasium.error.ResetNeeded("the episode is over or has not begun: call reset first")
        actions = self._current().admissible
        if not self.action_space.contains(action):
            raise ValueError(f"action must be an index from 0 to {len(actions) - 1}, not {action!r}")
        self._backend.send(actions[action])

    def step_wait(self) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Wait for the outcome of the command that was sent. Returns what `step` returns.

        Raises:
            BadGame: the command breaks the game, even with `skip_bad_games`.
        """
        self._over = True  # unless the command succeeds
        try:
            now = self._backend.receive()
        except BadGame as error:
            # Dropping an episode that has begun would bias the results.
            raise BadGame(f"{error} (its episode had begun, so skip_bad_games does not skip it)") from error
        self._set(now)
        # A backend may end a game that is not won; that is a truncation, too.
        truncated = not now.won and (now.done or now.steps >= MAX_STEPS)
        self._over = now.won or truncated
        return self._backend.image(), WIN * now.won + now.conditions_met, now.won, truncated, self._info()

    def render(self) -> np.ndarray | None:
        """The current image in mode `rgb_array`, else None."""
        return self._backend.image() if self.render_mode == "rgb_array" else None

    def view(self) -> View:
        """The admissible commands in the order of `step`'s index, the goal and, with `show_text`, the scene."""
        now = self._current()
        said = [f"The scene in words: {_one_line(now.scene)}"] if now.scene else []
        if now.steps:
            said.append(f"The last command was answered: {_one_line(now.feedback)}")
        scene = "".join(f"\n{line}" for line in said) if self.show_text else ""
        return View(now.admissible, {"goal": now.goal_text, "scene": scene}, aliases_of(now.admissible))

    def expert_action(self) -> ExpertAction:
        """What the expert would do now. Asking again gives the same answer."""
        now = self._current()
        if self._expert == "explorer":
            # A stream of its own per step: asking must not change what the environment draws later.
            game = "/".join(Path(now.game_file).parts[-3:])
            command, thoughts = experts.explore(now, stream(self._episode, "explorer", game, now.steps))
        else:
            command, thoughts = experts.advise(now)
        return ExpertAction({"thoughts": thoughts}, command)

    def perception(self) -> Mapping[str, str]:
        """What the image shows of the agent: its place, the object in its hand and the state of that object.

        Empty if the backend does not report facts (`thor`).
        """
        now = self._current()
        if not now.facts:
            return {}
        states = " and ".join(marks_of(now, now.held)) if now.held else ""
        return {"place": experts.places(now), "in hand": now.held or "nothing", "state": states or "plain"}

    @property
    def game_count(self) -> int:
        """Number of games of the split."""
        return len(self.games.files)

    @property
    def skipped(self) -> dict[str, str]:
        """The bad games skipped so far (`skip_bad_games`): the reason for each file."""
        return {str(file): why for file, why in (*self.games.skipped, *self._bad.items())}

    def carried(self) -> dict[str, Any]:
        """The number of episodes since the last seed, and the games that could not be started."""
        return {"episode": self._episode, "bad": {str(file): why for file, why in self._bad.items()}}

    def carry(self, saved: Mapping[str, Any]) -> None:
        """Put back what `carried` returned."""
        self._episode = saved["episode"]
        self._bad = {Path(file): why for file, why in saved["bad"].items()}

    def close(self) -> None:
        self._backend.close()

    def _current(self) -> Situation:
        if self._situation is None:
            raise gymnasium.error.ResetNeeded("call reset first")
        return self._situation

    def _set(self, situation: Situation) -> None:
        self._situation = situation
        if self.action_space.n != max(len(situation.admissible), 1):
            # `Discrete` needs at least one action.
            self.action_space = spaces.Discrete(max(len(situation.admissible), 1))

    def _game_of(self, seed: int) -> Path:
        """The game of a seed. As many consecutive seeds as there are games play each of them once."""
        files = self.games.files
        # The files are sorted by path, and so by task type. Without shuffling, the first seeds would all play one type.
        shuffled = np.random.default_rng(0).permutation(len(files))
        return files[shuffled[seed % len(files)]]

    def _draw(self) -> Path:
        return self.games.files[int(self.np_random.integers(len(self.games.files)))]

    def _started(self, drawn: Path) -> Situation:
        """Start the drawn game. If it is bad and may be replaced, draw again until one can be started."""
        while True:
            try:
                if drawn not in self._bad:
                    return self._backend.start(str(drawn))
            except BadGame as error:
                if not self._skip_bad_games:
                    raise BadGame(f"{error} (skip_bad_games: true skips it)") from error
                _LOG.warning("skipped: %s", error)
                self._bad[drawn] = str(error)
                if len(self._bad) == len(self.games.files):  # or the loop would never end
                    raise BadGame(f"none of the {len(self._bad)} games can be played; the last: {error}") from error
            if not self.replaces_skipped:
                raise GameSkipped(self._bad[drawn])
            drawn = self._draw()

    def _chosen(self, options: Mapping[str, Any] | None) -> Path | None:
        for name in options or {}:
            if name != "game":
                raise ValueError(f"unknown option {name!r}: the only option is 'game'")
        wanted = (options or {}).get("game")
        return None if wanted is None else choose_game(self.games, split_folder(self.data, self.split), str(wanted))

    def _info(self) -> dict[str, Any]:
        now = self._current()
        return {
            "won": now.won,
            "goal_condition_success_rate": now.conditions_met,
            "admissible_commands": list(now.admissible),
            "extra.gamefile": now.game_file,
            "task_type": now.task_type.value,
            "source": now.source.value,
            "pictures": self._backend.images.value,
        }


def choose_game(games: GameSet, folder: Path, wanted: str) -> Path:
    """Find the game that `wanted` names: its file, its folder or a part of its path below `folder`.

    Raises:
        ValueError: `wanted` names no game of the split or several.
    """
    path = Path(wanted)
    exact = [file for file in games.files if path in (file, file.parent)]
    found = exact or [file for file in games.files if wanted in file.relative_to(folder).as_posix()]
    if len(found) != 1:
        raise ValueError(f"option 'game': {wanted!r} names {len(found) or 'none'} of the {len(games.files)} games")
    return found[0]


def check_task_types(names: Collection[str]) -> tuple[TaskType, ...]:
    """Task types by name. Raises ValueError if a name is unknown, or if `names` is not a list or is empty."""
    if isinstance(names, str) or not isinstance(names, Collection):
        raise ValueError(f"task_types must be a list such as ['Pick', 'Heat'], not {names!r}")
    known = {task_type.value: task_type for task_type in TaskType}
    for name in names:
        if not isinstance(name, str) or name not in known:
            raise ValueError(f"task_types: unknown task type {name!r}; {did_you_mean(name, known)}")
    if not names:
        raise ValueError("task_types is empty: no game would be left")
    return tuple(known[name] for name in names)


def _data_folder(data: str | Path | None) -> Path:
    given = data if data is not None else os.environ.get("ALFWORLD_DATA")
    if given is None or given == "":
        raise ValueError(
            "ALFWorld needs games: pass the option data=FOLDER or set ALFWORLD_DATA; docs/alfworld.md says how to "
            "generate or download games"
        )
    if not isinstance(given, str | Path):
        raise ValueError(f"data must be the path of a folder, not {given!r}")
    return Path(given)


@lru_cache(maxsize=16)
def _games(data: str, split: str, task_types: tuple[TaskType, ...], skip_bad_games: bool) -> GameSet:
    """The games of a split. Each is read once per process, however many environments play it."""
    return find_games(Path(data), split, task_types, skip_bad_games=skip_bad_games)


def _one_line(text: str) -> str:
    return " ".join(text.split())
