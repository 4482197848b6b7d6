"""Generated games: every type, held-out scenes, the same bytes from a seed, and playable by ALFWorld's loader."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from rl4vlm.config.stages.alfworld import GamesSettings
from rl4vlm.envs.alfworld.games import GameData, find_games, read_game
from rl4vlm.envs.alfworld.generator import ROUNDS, draft_game, generate, run
from rl4vlm.envs.alfworld.goals import class_of
from rl4vlm.envs.alfworld.problem import LAMP, Draft, portable
from rl4vlm.envs.alfworld.scenes import KINDS, constants, read_scene, scene_numbers
from rl4vlm.envs.alfworld.types import TaskType
from rl4vlm.envs.alfworld.workers import solvers

SMALL = GamesSettings(train=6, seen=6, unseen=6, rooms=1, unseen_rooms=1)


def unsolved(games: Sequence[GameData]) -> list[tuple[str, ...] | None]:
    """Stands in for the solver in tests of everything else."""
    return [("look",) for _ in games]


def drafts(task_type: TaskType, count: int = 30) -> list[Draft]:
    kinds = constants().GOALS_VALID[task_type.folder_prefix]
    scenes = [read_scene(n, 8) for kind in KINDS if kind in kinds for n in scene_numbers(kind, 3, held_out=False)]
    return [draft_game(scenes, task_type, 4, np.random.default_rng(seed), "trial") for seed in range(count)]


def tree(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != "run.json")
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


@pytest.mark.parametrize("task_type", list(TaskType))
class TestDrafts:
    def test_things_lie_where_they_fit_and_the_task_is_not_done(self, task_type: TaskType) -> None:
        for draft in drafts(task_type):
            kinds = {receptacle.id: receptacle.kind for receptacle in draft.scene.receptacles}
            for item in draft.objects:
                if item.kind != LAMP:
                    assert kinds[item.receptacle] in portable()[item.kind]
            targets = [item for item in draft.objects if item.kind == draft.target]
            assert len(targets) >= (2 if task_type is TaskType.PICK2 else 1)
            assert all(kinds[item.receptacle] != draft.receptacle for item in targets)
            assert (draft.receptacle is None) == (task_type is TaskType.LOOK)
            assert sum(item.kind == LAMP for item in draft.objects) == (task_type is TaskType.LOOK)
            assert len({item.id for item in draft.objects}) == len(draft.objects)

    def test_the_room_has_what_the_task_needs(self, task_type: TaskType) -> None:
        device = {TaskType.HEAT: "Microwave", TaskType.COOL: "Fridge", TaskType.CLEAN: "SinkBasin"}.get(task_type)
        able = {TaskType.HEAT: "Heatable", TaskType.COOL: "Coolable", TaskType.CLEAN: "Cleanable"}.get(task_type)
        for draft in drafts(task_type):
            assert draft.scene.kind in constants().GOALS_VALID[task_type.folder_prefix]
            if device is not None and able is not None:
                assert draft.scene.of_kind(device)
                assert draft.target in constants().VAL_ACTION_OBJECTS[able]
                assert draft.receptacle != device

    def test_there_are_many_different_ones(self, task_type: TaskType) -> None:
        made = drafts(task_type)
        assert len({draft.arrangement for draft in made}) > 25
        assert len({(draft.target, draft.receptacle) for draft in made}) > 10
        assert len({draft.scene.number for draft in made}) >= 3
        assert len({draft.wording for draft in made}) == 2


class TestScenes:
    def test_held_out_scenes_are_never_trained_in(self) -> None:
        for kind in KINDS:
            trained = scene_numbers(kind, 24, held_out=False)
            held_out = scene_numbers(kind, 6, held_out=True)
            assert not set(trained) & set(held_out)
            assert sorted([*trained, *held_out]) == list(constants().SCENE_TYPE[kind])

    def test_a_cut_room_keeps_what_heats_cools_and_cleans(self) -> None:
        for number in scene_numbers("Kitchen", 24, held_out=False):
            for most in (4, 8):
                scene = read_scene(number, most)
                assert len(scene.receptacles) == most
                assert all(scene.of_kind(kind) for kind in ("Fridge", "Microwave", "SinkBasin"))

    def test_the_agent_starts_away_from_all_receptacles(self) -> None:
        for kind in KINDS:
            scene = read_scene(scene_numbers(kind, 1, held_out=False)[0], 10)
            assert not set(scene.places) & {receptacle.place for receptacle in scene.receptacles}

    def test_too_many_rooms_are_refused(self) -> None:
        with pytest.raises(ValueError, match="cannot use 25 rooms of the kind Kitchen: there are 1 to 24"):
            scene_numbers("Kitchen", 25, held_out=False)


class TestGenerate:
    def test_types_splits_and_manifest(self, tmp_path: Path) -> None:
        manifest = generate(tmp_path, SMALL, unsolved)
        assert json.loads((tmp_path / "manifest.json").read_text()) == manifest
        assert manifest["source"] == "generated"
        assert manifest["settings"]["seed"] == 1
        scenes = {}
        for split in ("train", "valid_seen", "valid_unseen"):
            assert manifest["games"][split] == {task_type.value: 1 for task_type in TaskType}
            games = [read_game(file) for file in find_games(tmp_path, split).files]
            assert sorted(game.goal.task_type for game in games) == sorted(TaskType)
            scenes[split] = {game.scene for game in games}
        assert not scenes["valid_unseen"] & (scenes["train"] | scenes["valid_seen"])

    def test_no_game_comes_twice(self, tmp_path: Path) -> None:
        settings = GamesSettings(train=120, seen=60, unseen=0, rooms=1, receptacles=5, distractors=1)
        generate(tmp_path, settings, unsolved)
        seen = set()
        for file in sorted(tmp_path.rglob("game.tw-pddl")):
            game = read_game(file)
            lying = {line.strip() for line in game.problem.splitlines() if "(inReceptacle " in line}
            key = (
                game.scene,
                game.goal,
                tuple(sorted(_class_in_receptacle(line) for line in lying if "?" not in line)),
            )
            assert key not in seen, file
            seen.add(key)
        assert len(seen) == 180

    def test_a_game_without_solution_is_drawn_anew_and_counted(self, tmp_path: Path) -> None:
        calls: list[int] = []

        def solve(games: Sequence[GameData]) -> list[tuple[str, ...] | None]:
            calls.append(len(games))
            return [None if len(calls) == 1 and number < 2 else ("look",) for number in range(len(games))]

        manifest = generate(tmp_path, GamesSettings(train=6, seen=0, unseen=0), solve)
        assert calls == [6, 2]
        assert manifest["dropped"]["train"] == 2
        assert sum(manifest["games"]["train"].values()) == 6

    def test_gives_up_when_nothing_can_be_solved(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=f"2 games of train could not be solved in {ROUNDS} rounds"):
            generate(tmp_path, GamesSettings(train=2, seen=0, unseen=0), lambda games: [None] * len(games))

    def test_a_long_walkthrough_is_dropped(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="could not be solved"):
            generate(tmp_path, GamesSettings(train=1, seen=0, unseen=0, longest=2), lambda games: [("look",) * 3])

    @pytest.mark.parametrize(
        ("words", "message"),
        [({"train": -1}, "train"), ({"receptacles": 3}, "receptacles"), ({"longest": 0}, "longest")],
    )
    def test_bad_settings_are_named(self, words: dict[str, int], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            GamesSettings(**words)


def test_the_benchmarks_own_games_are_not_erased(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--out $ALFWORLD_DATA` is refused before any game is made. Earlier output of the command is replaced."""
    game = tmp_path / "data" / "json_2.1.1" / "train" / "pick-Mug" / "trial" / "game.tw-pddl"
    game.parent.mkdir(parents=True)
    game.write_text("{}")
    with monkeypatch.context() as patched:
        patched.setattr(solvers.Solvers, "__enter__", lambda _: pytest.fail("it began all the same"))
        with pytest.raises(ValueError, match=r"/data/.* would be replaced .* stage alfworld_games"):
            run(out=tmp_path / "data", settings=SMALL)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["game.tw-pddl"]
    for train in (2, 1):
        settings = GamesSettings(train=train, seen=0, unseen=0, rooms=1, receptacles=5, distractors=0)
        monkeypatch.setattr(solvers.Solvers, "__call__", lambda _, games: unsolved(games))
        run(out=tmp_path / "games", settings=settings, processes=1)
        assert len(list((tmp_path / "games").rglob("game.tw-pddl"))) == train


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    """With two hash seeds, and with one or two worker processes that plan."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom rl4vlm.config.stages.alfworld import GamesSettings\n"
        "from rl4vlm.envs.alfworld.generator import run\n"
        "settings = GamesSettings(train=3, seen=0, unseen=0, rooms=1, receptacles=6, distractors=2)\n"
        "run(out=Path(sys.argv[1]), settings=settings, processes=int(sys.argv[2]))\n"
    )
    for number in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": number, "PYTHONPATH": os.pathsep.join(sys.path)}
        words = [sys.executable, "-c", program, str(tmp_path / number), number]
        subprocess.run(words, env=environment, check=True, capture_output=True)
    assert tree(tmp_path / "1") == tree(tmp_path / "2")
    assert len(tree(tmp_path / "1")) == 7
    assert json.loads((tmp_path / "1" / "run.json").read_text())["stage"] == "alfworld_games"


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="the library itself writes into locals(): not from 3.13 on")
def test_alfworlds_own_environment_plays_them_to_the_end(generated: Path) -> None:
    """With `AlfredTWEnv`, as in the benchmark, instead of this project's engine."""
    program = """
import json, sys, warnings
from pathlib import Path
from alfworld.agents.environment.alfred_tw_env import AlfredTWEnv
data = sys.argv[1]
config = {
    "dataset": {"data_path": f"{data}/train", "eval_id_data_path": f"{data}/valid_seen",
                "eval_ood_data_path": f"{data}/valid_unseen", "num_train_games": -1, "num_eval_games": -1},
    "env": {"goal_desc_human_anns_prob": 0, "task_types": [1, 2, 3, 4, 5, 6], "domain_randomization": False,
            "expert_type": "handcoded"},
    "general": {"training_method": "dqn"},
    "rl": {"training": {"max_nb_steps_per_episode": 50}},
}
env = AlfredTWEnv(config, train_eval="eval_out_of_distribution")
assert env.num_games == 1, env.num_games
assert AlfredTWEnv(config, train_eval="train").num_games == 6
play = env.init_env(batch_size=1)
texts, infos = play.reset()
game = json.loads(Path(infos["extra.gamefile"][0]).read_text())
for command in game["walkthrough"]:
    assert not infos["won"][0]
    assert command in infos["admissible_commands"][0]
    texts, scores, dones, infos = play.step([command])
assert infos["won"][0]
play.close()
print("won")
"""
    done = subprocess.run([sys.executable, "-c", program, str(generated)], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["won"], done.stderr


def _class_in_receptacle(line: str) -> tuple[str, str]:
    _, thing, receptacle = line.strip("()").split()
    return thing.split("_bar_")[0], receptacle


def test_class_of_names_is_the_class_in_the_problem(by_type: dict[TaskType, GameData]) -> None:
    from rl4vlm.envs.alfworld.engine import Engine

    for game in by_type.values():
        now = Engine().start(game.file)
        names = {class_of(fact[1]) for fact in now.facts if fact[0] in ("inreceptacle", "receptacleatlocation")}
        words = game.problem.lower()
        assert all(f" {name}type)" in words for name in names)
