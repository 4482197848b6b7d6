"""Finding and reading games: layouts, labels, and every way in which a file can be bad."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rl4vlm.core.output import output_checksums
from rl4vlm.envs.alfworld.games import SPLITS, find_games, read_game, split_folder
from rl4vlm.envs.alfworld.types import Goal, Source, TaskType

GAME: dict[str, Any] = {
    "pddl_domain": "(define (domain alfred))",
    "grammar": '{"task": [{"rhs": "Your task is to: put a mug in desk."}]}',
    "pddl_problem": "(define (problem p) (:domain alfred))",
    "solvable": True,
    "walkthrough": ["go to desk 1", "take mug 1 from desk 1"],
}
TRAJECTORY: dict[str, Any] = {
    "task_type": "pick_and_place_simple",
    "pddl_params": {"object_target": "Mug", "parent_target": "Desk", "toggle_target": "", "mrecep_target": ""},
    "scene": {"floor_plan": "FloorPlan301", "scene_num": 301},
}


def write_game(folder: Path, game: dict[str, Any] | None = None, trajectory: dict[str, Any] | None = None) -> Path:
    """Two files of a game, with these entries in place of the usual ones; an entry of None is left out."""
    folder.mkdir(parents=True)
    for name, usual, other in (("game.tw-pddl", GAME, game), ("traj_data.json", TRAJECTORY, trajectory)):
        entries = {key: value for key, value in {**usual, **(other or {})}.items() if value is not None}
        (folder / name).write_text(json.dumps(entries))
    return folder / "game.tw-pddl"


class TestReadGame:
    def test_says_what_the_files_say(self, tmp_path: Path) -> None:
        game = read_game(write_game(tmp_path / "trial"))
        assert game.goal == Goal(TaskType.PICK, "mug", "desk")
        assert game.goal_text == "put a mug in desk."
        assert game.walkthrough == ("go to desk 1", "take mug 1 from desk 1")
        assert (game.scene, game.source) == (301, Source.OFFICIAL)

    def test_look_names_the_lamp_and_no_receptacle(self, tmp_path: Path) -> None:
        parameters = {"object_target": "Mug", "parent_target": "Desk", "toggle_target": "DeskLamp"}
        trajectory = {"task_type": "look_at_obj_in_light", "pddl_params": parameters}
        game = read_game(write_game(tmp_path / "trial", trajectory=trajectory))
        assert game.goal == Goal(TaskType.LOOK, "mug", lamp="desklamp")

    def test_generated_games_say_so_themselves(self, tmp_path: Path) -> None:
        assert read_game(write_game(tmp_path / "t", trajectory={"source": "generated"})).source is Source.GENERATED

    def test_the_benchmark_has_no_walkthroughs(self, tmp_path: Path) -> None:
        assert read_game(write_game(tmp_path / "trial", {"walkthrough": None})).walkthrough is None

    def test_the_goalless_grammar_is_one_for_all_games(self, tmp_path: Path) -> None:
        one = read_game(write_game(tmp_path / "one"))
        other = read_game(write_game(tmp_path / "other", {"grammar": GAME["grammar"].replace("a mug", "two pens")}))
        assert one.goalless_grammar == other.goalless_grammar
        assert other.with_goal(json.loads(one.goalless_grammar)["task"][0]["rhs"]) == (
            "Your task is to: put two pens in desk."
        )

    @pytest.mark.parametrize(
        ("game", "trajectory", "message"),
        [
            ({"solvable": False}, {}, "marked as unsolvable"),
            ({"solvable": None}, {}, "never checked"),
            ({"grammar": None}, {}, "the entry 'grammar' is missing or no text"),
            ({"pddl_problem": 3}, {}, "the entry 'pddl_problem' is missing or no text"),
            ({"grammar": "{}"}, {}, "no line 'Your task is to"),
            ({"walkthrough": "look"}, {}, "must be a list of commands"),
            ({}, {"task_type": "pick_and_drop"}, "unknown task type 'pick_and_drop'; known are pick_and_place_simple"),
            ({}, {"task_type": ["x"]}, "unknown task type"),
            ({}, {"pddl_params": None}, "the entry 'pddl_params' is missing"),
            ({}, {"pddl_params": {"object_target": ""}}, "'object_target'"),
            ({}, {"source": "guessed"}, "'source' must be one of generated, official, not 'guessed'"),
        ],
    )
    def test_a_bad_entry_is_named_with_its_file(
        self, tmp_path: Path, game: dict[str, Any], trajectory: dict[str, Any], message: str
    ) -> None:
        file = write_game(tmp_path / "trial_7", game, trajectory)
        with pytest.raises(ValueError, match=message) as error:
            read_game(file)
        assert "trial_7" in str(error.value)

    @pytest.mark.parametrize("name", ["game.tw-pddl", "traj_data.json"])
    @pytest.mark.parametrize("content", [None, b"{", b"\xff\xfe", b"[]", b'{"scene": NaN}', b"[" * 100_000])
    def test_a_corrupt_or_missing_file_is_named(self, tmp_path: Path, name: str, content: bytes | None) -> None:
        broken = write_game(tmp_path / "trial_7").with_name(name)
        broken.unlink() if content is None else broken.write_bytes(content)
        with pytest.raises(ValueError, match=f"trial_7/{name}"):
            read_game(broken.with_name("game.tw-pddl"))


class TestFindGames:
    @pytest.mark.parametrize("above", ["", "json_2.1.1"])
    def test_finds_a_split_in_either_layout_sorted(self, tmp_path: Path, above: str) -> None:
        files = [write_game(tmp_path / above / "train" / name / "trial") for name in ("c-1", "a-1", "b-1")]
        assert find_games(tmp_path, "train").files == tuple(sorted(files))

    def test_leaves_out_what_the_benchmark_leaves_out(self, tmp_path: Path) -> None:
        kept = write_game(tmp_path / "train" / "pick-Mug" / "trial")
        write_game(tmp_path / "train" / "pick_and_place_with_movable_recep-Mug" / "t", trajectory={"task_type": "?"})
        write_game(tmp_path / "train" / "pick-AppleSliced" / "trial")
        assert find_games(tmp_path, "train").files == (kept,)

    def test_leaves_out_trials_without_a_game_and_says_once_how_many(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Nearly half of the trajectories in the official training set have no game."""
        for number in range(3):
            write_game(tmp_path / "train" / f"empty-{number}" / "trial", trajectory={"task_type": "?"}).unlink()
        with pytest.raises(ValueError, match=r"no playable game of .* 3 have no game\.tw-pddl"):
            find_games(tmp_path, "train")
        caplog.clear()
        kept = write_game(tmp_path / "train" / "full" / "trial")
        found = find_games(tmp_path, "train")
        assert (found.files, found.skipped) == ((kept,), ())
        assert [message for message in caplog.messages if "left out" in message] == [
            f"{tmp_path / 'train'}: left out 3 trials without a game.tw-pddl, as in the benchmark"
        ]

    def test_a_game_without_its_trajectory_is_no_game(self, tmp_path: Path) -> None:
        """As in the benchmark, which looks for trajectories."""
        kept = write_game(tmp_path / "train" / "a" / "trial")
        write_game(tmp_path / "train" / "b" / "trial").with_name("traj_data.json").unlink()
        assert find_games(tmp_path, "train").files == (kept,)

    def test_finds_the_types_that_are_wanted(self, tmp_path: Path) -> None:
        write_game(tmp_path / "train" / "a" / "trial")
        two = write_game(tmp_path / "train" / "b" / "trial", trajectory={"task_type": "pick_two_obj_and_place"})
        assert find_games(tmp_path, "train", [TaskType.PICK2]).files == (two,)
        with pytest.raises(ValueError, match="no playable game of Heat"):
            find_games(tmp_path, "train", [TaskType.HEAT])

    def test_a_bad_game_is_an_error_unless_it_may_be_skipped(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        good = write_game(tmp_path / "train" / "good" / "trial")
        bad = write_game(tmp_path / "train" / "bad" / "trial", {"solvable": False})
        with pytest.raises(ValueError, match=r"bad/trial/game.tw-pddl: the game is marked .*\(skip_bad_games"):
            find_games(tmp_path, "train")
        found = find_games(tmp_path, "train", skip_bad_games=True)
        assert found.files == (good,)
        assert found.skipped == ((bad, f"{bad}: the game is marked as unsolvable"),)
        assert f"skipped: {bad}: the game is marked as unsolvable" in caplog.messages

    def test_a_generated_game_that_was_changed_is_named(self, tmp_path: Path) -> None:
        file = write_game(tmp_path / "train" / "a-Mug-None-Desk-301" / "t")
        record = {"stage": "alfworld_games", "outputs": output_checksums(tmp_path, "run.json")}
        (tmp_path / "run.json").write_text(json.dumps(record))
        assert find_games(tmp_path, "train").files == (file,)
        file.write_text(file.read_text().replace("put a mug", "put a cup"))
        with pytest.raises(ValueError, match=r"game\.tw-pddl is damaged or was changed"):
            find_games(tmp_path, "train")

    def test_a_missing_folder_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"no ALFWorld games at .*/nowhere: there is no such folder"):
            find_games(tmp_path / "nowhere", "train")
        with pytest.raises(ValueError, match="/valid_seen: there is no such folder"):
            split_folder(tmp_path, "valid_seen")
        with pytest.raises(ValueError, match=r"unknown split 'test' .* train, valid_seen, valid_unseen"):
            split_folder(tmp_path, "test")


class TestOfficialGames:
    def test_all_can_be_read(self, official: Path) -> None:
        for split, count in (("train", 36), ("valid_seen", 18)):
            games = [read_game(file) for file in find_games(official, split).files]
            assert len(games) == count
            assert {game.source for game in games} == {Source.OFFICIAL}
            assert {game.goal.task_type for game in games} == set(TaskType)
            assert all(game.goal.object_class in game.goal_text for game in games)


def test_generated_games_have_the_official_layout(generated: Path) -> None:
    assert set(SPLITS) < {path.name for path in generated.iterdir()}
    for split, count in (("train", 6), ("valid_seen", 1), ("valid_unseen", 1)):
        files = find_games(generated, split).files
        assert len(files) == count
        for file in files:
            game = read_game(file)
            name = file.parts[-3]
            assert name.startswith(f"{game.goal.task_type.folder_prefix}-")
            assert name.endswith(f"-{game.scene}")
            assert game.source is Source.GENERATED
