"""The engine: its sentences equal those of the unchanged library, walkthroughs win, states can be restored."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rl4vlm.envs.alfworld.engine import ILLEGAL, Engine, EngineState
from rl4vlm.envs.alfworld.games import BadGame, GameData
from rl4vlm.envs.alfworld.types import TaskType
from tests.envs.alfworld.compare_with_pddlenv import assert_matches_pddlenv, needs_working_library
from tests.envs.alfworld.game_files import change_goal, copy_game
from tests.envs.alfworld.random_walk import replay, walk


@needs_working_library
def test_a_generated_game_says_what_the_library_says(by_type: dict[TaskType, GameData]) -> None:
    assert_matches_pddlenv([by_type[TaskType.HEAT].file], steps=25)


class TestWalkthroughs:
    @pytest.mark.parametrize("task_type", list(TaskType))
    def test_wins_a_generated_game_command_by_command(
        self, by_type: dict[TaskType, GameData], task_type: TaskType
    ) -> None:
        game = by_type[task_type]
        assert game.walkthrough is not None
        passed = replay(game.file, game.walkthrough)
        assert [now.next_command for now in passed] == [*game.walkthrough, None]
        assert [now.won for now in passed] == [False] * len(game.walkthrough) + [True]
        assert all((now.conditions_met == 1) == now.won for now in passed)
        assert all(command in now.admissible for now, command in zip(passed[:-1], game.walkthrough, strict=True))
        assert any("move" in command for command in game.walkthrough) != (task_type is TaskType.LOOK)

    @pytest.mark.parametrize(
        ("task_type", "shares"),
        [
            (TaskType.PICK, [0, 1]),
            (TaskType.LOOK, [0, 1 / 2, 1]),
            (TaskType.PICK2, [0, 1 / 2, 1]),
            (TaskType.HEAT, [0, 1 / 3, 1]),
            (TaskType.COOL, [0, 1 / 3, 1]),
            (TaskType.CLEAN, [0, 1 / 3, 1]),
        ],
    )
    def test_meets_the_conditions_one_after_the_other(
        self, by_type: dict[TaskType, GameData], task_type: TaskType, shares: list[float]
    ) -> None:
        game = by_type[task_type]
        assert game.walkthrough is not None
        assert list(dict.fromkeys(now.conditions_met for now in replay(game.file, game.walkthrough))) == shares

    def test_leaving_the_walkthrough_ends_it(self, by_type: dict[TaskType, GameData]) -> None:
        game, engine = by_type[TaskType.PICK], Engine()
        assert game.walkthrough is not None
        assert engine.start(game.file).next_command == game.walkthrough[0]
        assert engine.act("look").next_command is None
        assert engine.act(game.walkthrough[0]).next_command is None


class TestSituation:
    def test_the_start_shows_the_room_and_no_place(self, by_type: dict[TaskType, GameData]) -> None:
        now = Engine().start(by_type[TaskType.PICK].file)
        assert (now.steps, now.won, now.done, now.held, now.at) == (0, False, False, None, ())
        assert now.feedback.startswith("-= Welcome to TextWorld, ALFRED! =-")
        assert now.feedback.endswith(f"Your task is to: {now.goal_text}")
        assert now.scene.startswith("You are in the middle of a room. Looking quickly around you, you see a ")
        assert now.admissible == tuple(sorted(set(now.admissible)))
        assert now.facts == tuple(sorted(set(now.facts)))

    def test_the_scene_describes_what_stands_here_and_costs_no_step(self, by_type: dict[TaskType, GameData]) -> None:
        game, engine = by_type[TaskType.PICK], Engine()
        now = engine.start(game.file)
        for command in [command for command in now.admissible if command.startswith("go to")]:
            now = engine.act(command)
            assert command.removeprefix("go to ") in now.at
            for receptacle in now.at:
                facts = [fact for fact in now.facts if fact[0] == "inreceptacle" and fact[2] == receptacle]
                shut = ("openable", receptacle) in now.facts and ("opened", receptacle) not in now.facts
                assert (f"The {receptacle} is closed." in now.scene) == shut
                assert all((f"a {thing}" in now.scene) != shut for _, thing, _ in facts)
        assert ("checked", now.at[0]) not in now.facts

    def test_what_is_held_is_seen(self, by_type: dict[TaskType, GameData]) -> None:
        game = by_type[TaskType.LOOK]
        assert game.walkthrough is not None
        taken = [now.held for now in replay(game.file, game.walkthrough)]
        assert taken[0] is None
        assert taken[-1] is not None
        assert taken[-1].startswith(f"{game.goal.object_class} ")

    def test_an_illegal_command_counts_and_changes_nothing(self, by_type: dict[TaskType, GameData]) -> None:
        engine = Engine()
        before = engine.start(by_type[TaskType.PICK].file)
        after = engine.act("open the pod bay doors")
        assert (after.feedback, after.steps) == (ILLEGAL, 1)
        assert (after.facts, after.admissible, after.scene) == (before.facts, before.admissible, before.scene)

    def test_goes_through_a_pickle(self, by_type: dict[TaskType, GameData]) -> None:
        now = Engine().start(by_type[TaskType.PICK].file)
        assert pickle.loads(pickle.dumps(now)) == now

    def test_share_is_one_only_when_won_on_random_walks(self, by_type: dict[TaskType, GameData]) -> None:
        for task_type, game in by_type.items():
            engine = Engine()
            for now in walk(engine, engine.start(game.file), steps=60, seed=3):
                assert (now.conditions_met == 1) == now.won, task_type


class TestState:
    def test_comes_back_exactly(self, by_type: dict[TaskType, GameData]) -> None:
        game, engine = by_type[TaskType.PICK2], Engine()
        here = walk(engine, engine.start(game.file), steps=25, seed=5)[-1]
        state = engine.state()
        assert state.game_file == str(game.file)
        assert len(state.commands) == here.steps == 25
        other = Engine()
        assert other.restore(state) == here
        assert [other.act(command) for command in here.admissible[:3]] == [
            engine.act(command) for command in here.admissible[:3]
        ]

    def test_a_start_comes_back_too(self, by_type: dict[TaskType, GameData]) -> None:
        file = by_type[TaskType.PICK].file
        assert Engine().restore(EngineState(str(file), ())) == Engine().start(file)

    def test_engines_do_not_meet(self, by_type: dict[TaskType, GameData]) -> None:
        game, one, other = by_type[TaskType.COOL], Engine(), Engine()
        alone = walk(one, one.start(game.file), steps=12)
        commands = one.state().commands
        together = [one.start(game.file)]
        other.start(game.file)
        for command in commands:
            other.act("go to fridge 1")
            together.append(one.act(command))
        assert together == alone

    def test_a_closed_engine_starts_again(self, by_type: dict[TaskType, GameData]) -> None:
        engine = Engine()
        first = engine.start(by_type[TaskType.PICK].file)
        engine.close()
        with pytest.raises(ValueError, match="no game has been started"):
            engine.act("look")
        assert engine.start(by_type[TaskType.PICK].file) == first

    def test_the_hash_seed_changes_nothing(self, by_type: dict[TaskType, GameData]) -> None:
        program = (
            "import sys, random\nfrom rl4vlm.envs.alfworld.engine import Engine\n"
            "engine, rng = Engine(), random.Random(1)\nnow = engine.start(sys.argv[1])\n"
            "for _ in range(40):\n    print(now)\n    now = engine.act(rng.choice(now.admissible))\n"
        )
        said = [
            subprocess.run(
                [sys.executable, "-c", program, str(by_type[TaskType.PICK2].file)],
                env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for seed in ("1", "2")
        ]
        assert said[0] == said[1]
        assert said[0].count("Situation(") == 40


class TestBadInput:
    def test_nothing_is_changed_outside(
        self, by_type: dict[TaskType, GameData], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("ALFWORLD_DATA", raising=False)
        before = sys.argv[:]
        program = (
            "import os, sys\nfrom rl4vlm.envs.alfworld.engine import Engine\nbefore = sys.argv[:]\n"
            "Engine().start(sys.argv[1])\nassert sys.argv == before and 'ALFWORLD_DATA' not in os.environ\n"
            "assert 'torch' not in sys.modules\nassert not os.path.exists(os.path.expanduser('~/.cache/alfworld'))\n"
        )
        home = by_type[TaskType.PICK].file.parent / "home"
        home.mkdir()
        environment = {**os.environ, "HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run([sys.executable, "-c", program, str(by_type[TaskType.PICK].file)], env=environment, check=True)
        assert sys.argv == before

    @pytest.mark.parametrize(
        ("key", "text", "message"),
        [
            ("pddl_problem", "(define (problem", "is not a planning task"),
            ("pddl_problem", "", "is not a planning task"),
            ("pddl_domain", "(define (domain alfred) (:action", "is not a planning task"),
            ("grammar", 'Your task is to: x" grammar ::', "the grammar cannot be parsed"),
        ],
    )
    def test_a_game_that_cannot_run_is_named(
        self, by_type: dict[TaskType, GameData], tmp_path: Path, key: str, text: str, message: str
    ) -> None:
        file = copy_game(by_type[TaskType.PICK].file, tmp_path, **{key: text})
        with pytest.raises(ValueError, match=message) as error:
            Engine().start(file)
        assert str(file) in str(error.value)

    @pytest.mark.parametrize(
        ("key", "pattern", "text", "message"),
        [
            ("pddl_problem", r"\(atLocation agent1 [^)]*\)", "", "the game cannot be started"),
            ("pddl_problem", r"\(:init", "(:init\n(openable Chest_bar_1)", "the problem is inconsistent"),
            ("grammar", "intro", "outro", "the game cannot be started"),
        ],
    )
    def test_a_game_with_a_hole_is_named(
        self, by_type: dict[TaskType, GameData], tmp_path: Path, key: str, pattern: str, text: str, message: str
    ) -> None:
        source, engine = by_type[TaskType.PICK].file, Engine()
        file = copy_game(source, tmp_path, **{key: re.sub(pattern, text, json.loads(source.read_text())[key])})
        with pytest.raises(BadGame, match=message) as error:
            engine.start(file)
        assert str(file) in str(error.value)
        with pytest.raises(ValueError, match="no game has been started"):
            engine.act("look")
        assert engine.start(source).steps == 0

    @pytest.mark.parametrize(
        "expression",
        [
            "r.__class__.__mro__",
            "().__class__.__base__.__subclasses__()",
            "r.name.__class__",
            "getattr(r, 'name')",
            "(lambda: r.name)()",
            "r.name * 99999999999",
        ],
    )
    def test_an_expression_that_is_more_than_names_and_texts_does_not_run(
        self, by_type: dict[TaskType, GameData], tmp_path: Path, expression: str
    ) -> None:
        source = by_type[TaskType.PICK].file
        grammar = json.loads(source.read_text())["grammar"].replace("{r.name}", f"{{{expression}}}")
        file = copy_game(source, tmp_path, grammar=grammar)
        with pytest.raises(BadGame, match=r"grammar cannot be parsed \(ValueError: .* is not allowed") as error:
            Engine().start(file)
        assert str(error.value).startswith(f"{file}: ")

    def test_a_game_that_breaks_later_is_named_and_must_be_started_again(
        self, by_type: dict[TaskType, GameData], tmp_path: Path
    ) -> None:
        source, engine = by_type[TaskType.PICK].file, Engine()
        grammar = json.loads(source.read_text())["grammar"].replace('"inventory.feedback"', '"inventory.mood"')
        file = copy_game(source, tmp_path, grammar=grammar)
        engine.start(file)
        engine.act("look")
        with pytest.raises(BadGame, match="the game breaks at the command 'inventory'") as error:
            engine.act("inventory")
        assert str(error.value).startswith(f"{file}: ")
        with pytest.raises(ValueError, match="no game has been started"):
            engine.act("look")
        with pytest.raises(BadGame, match="the game breaks when its commands are repeated") as error:
            engine.restore(EngineState(str(file), ("look", "inventory", "look")))
        assert str(error.value).startswith(f"{file}: ")
        assert engine.start(file).steps == 0

    @pytest.mark.parametrize("goal", [{"object_target": "Moon"}, {"parent_target": "Moon"}])
    def test_a_game_that_is_won_without_its_goal_is_named(
        self, by_type: dict[TaskType, GameData], tmp_path: Path, goal: dict[str, str]
    ) -> None:
        """`traj_data.json` names another goal than the problem, so that none of its conditions holds at the win."""
        game = by_type[TaskType.PICK]
        file = change_goal(copy_game(game.file, tmp_path), **goal)
        engine = Engine()
        engine.start(file)
        assert game.walkthrough is not None
        for command in game.walkthrough[:-1]:
            engine.act(command)
        with pytest.raises(
            BadGame, match=r"traj_data\.json does not fit the game: .* hold is 0, but the game is won"
        ) as error:
            engine.act(game.walkthrough[-1])
        assert str(error.value).startswith(f"{file}: ")

    def test_a_goal_that_is_met_without_a_win_is_named(self, by_type: dict[TaskType, GameData], tmp_path: Path) -> None:
        """The object is put in place without being cleaned, which is enough for the Pick in `traj_data.json`."""
        game = by_type[TaskType.CLEAN]
        file = change_goal(copy_game(game.file, tmp_path), "pick_and_place_simple")
        engine = Engine()
        engine.start(file)
        assert game.walkthrough is not None
        commands = [command for command in game.walkthrough if not command.startswith("clean")]
        for command in commands[:-1]:
            engine.act(command)
        with pytest.raises(BadGame, match=r"\(Pick .*\) that hold is 1, but the game is not won"):
            engine.act(commands[-1])

    def test_a_missing_game_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"no_game\.tw-pddl: cannot be read"):
            Engine().start(tmp_path / "no_game.tw-pddl")

    def test_a_game_that_is_over_takes_no_command(self, by_type: dict[TaskType, GameData]) -> None:
        game, engine = by_type[TaskType.PICK], Engine()
        engine.start(game.file)
        for command in game.walkthrough or ():
            engine.act(command)
        with pytest.raises(ValueError, match="the game is over"):
            engine.act("look")

    def test_a_changed_file_is_read_again(self, by_type: dict[TaskType, GameData], tmp_path: Path) -> None:
        source, engine = by_type[TaskType.PICK].file, Engine()
        file = copy_game(source, tmp_path)
        before = engine.start(file).goal_text
        file.write_text(source.read_text().replace(before, "do something else altogether."))
        assert engine.start(file).goal_text == "do something else altogether."
