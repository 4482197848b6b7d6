"""Tables of a task that is counted by kinds and played on several sets of games, as ALFWorld is."""

import json
from pathlib import Path

import pytest

from rl4vlm.results import tables
from rl4vlm.results.rows import TASK_ORDER
from rl4vlm.results.tables import NOT_THE_BENCHMARK, build_tables
from rl4vlm.tasks.alfworld import ALFWorld
from tests.results.synthetic import add_evaluation, add_training_run, make_results
from tests.results.test_tables import cells, one, pick, read


def add_household(made, run, rates, **extra):
    """An evaluation of a task that is counted by kinds: `rates` are (won, played) by kind."""
    groups = {
        kind: {"successes": won, "episodes": played, "success_rate": None if not played else 100 * won / played}
        for kind, (won, played) in rates.items()
    }
    won, played = (sum(column) for column in zip(*rates.values(), strict=True))
    options = {"overall": "alfworld_avg", "data_sources": ["generated"], "groups": groups, **extra}
    return add_evaluation(made, run, "ALFWorld", "RL4VLM", "ppo", won / played, played, seed=1, **options)


def test_a_task_that_is_counted_by_kinds_has_a_row_for_each_and_says_which_games(tmp_path):
    made = make_results(tmp_path, tasks=["NumberLine"], episodes=10)
    run = "ALFWorld-cot-lambda0.2-seed1"
    add_household(made, f"ppo-{run}", {"Pick": (3, 4), "Look": (0, 0), "Heat": (0, 2), "Cool": (0, 0)}, games="seen")
    add_household(made, f"ppo-{run}@unseen", {"Pick": (1, 4), "Look": (1, 2), "Heat": (0, 2)}, games="unseen")
    add_training_run(made, run, 0.1, 0.4, 1)
    made.thought_prob_coef["ALFWorld"] = 0.2
    build_tables(**made.inputs, out=tmp_path / "tables", scale="embedded")
    rows = pick(read(tmp_path / "tables", "main"), method="RL4VLM", source="reproduced")
    seen = pick(rows, scale="embedded, generated games, seen")
    assert [(row["task"], row["success_rate"], row["episodes"]) for row in seen] == [
        ("Pick", "75.0", "4"),
        ("Heat", "0.0", "2"),
        ("alfworld_avg", "50.0", "6"),
    ]
    assert one(rows, task="alfworld_avg", scale="embedded, generated games, unseen")["success_rate"] == "25.0"
    assert one(rows, task="Look")["scale"] == "embedded, generated games, unseen"
    peak = one(rows, protocol="rolling_peak", task="alfworld_avg")
    assert peak["scale"] == "embedded, generated games"
    assert one(pick(rows, protocol="held_out"), task="NumberLine")["scale"] == "embedded"
    wide = (tmp_path / "tables" / "main.md").read_text(encoding="utf-8")
    assert "reproduced (embedded, generated games, seen), held out" in wide
    headings = cells(wide.splitlines()[0])
    assert headings[3:] == ["Pick", "Look", "Heat", "Cool", "ALFWorld average"]
    (line,) = [line for line in wide.splitlines() if "games, seen" in line]
    # No episode was of the types Look and Cool.
    assert [bool(cell) for cell in cells(line)[3:]] == [True, False, True, False, True]
    assert "Cool" not in {row["task"] for row in rows}
    assert "Generated games are this project's, not the benchmark's" in wide
    assert "Drawn pictures" not in wide
    ceilings = {
        kind: (tmp_path / "tables" / f"ceiling.{kind}").read_text(encoding="utf-8") for kind in ("md", "tex", "csv")
    }
    assert "alfworld_avg," in ceilings["csv"]
    for kind in ("md", "tex"):
        assert "ALFWorld average (generated games, unseen)" in ceilings[kind]
        assert "alfworld" not in ceilings[kind]


def test_a_task_that_is_not_published_is_counted_by_its_own_kinds_in_its_own_order(tmp_path):
    made = make_results(tmp_path, tasks=["NumberLine"], episodes=10)
    groups = {"left": {"successes": 1, "episodes": 2}, "back": {"successes": 2, "episodes": 2}}
    add_evaluation(made, "ppo-x", "Maze", "RL4VLM", "ppo", 0.75, 4, groups=groups, overall="all_mazes")
    build_tables(**made.inputs, out=tmp_path / "tables", scale="embedded")
    heading = (tmp_path / "tables" / "main.md").read_text(encoding="utf-8").splitlines()[0]
    assert cells(heading)[3:] == ["left", "back", "Maze average"]


def test_alfworlds_columns_are_the_tasks_own():
    assert TASK_ORDER[-7:] == (*ALFWorld.groups, ALFWorld.overall)
    package = Path(tables.__file__).parents[1]
    found = [file for file in package.rglob("*.py") if ALFWorld.overall in file.read_text(encoding="utf-8")]
    assert found == [package / "tasks" / "alfworld.py"]


def test_perception_says_which_games_were_read(tmp_path):
    made = make_results(tmp_path, tasks=["NumberLine"], episodes=10)
    add_household(made, "ppo-ALFWorld-cot-lambda0.2-seed1", {"Pick": (3, 4)}, games="seen", reads=True)
    perception = tmp_path / "base_model" / "alfworld" / "perception.json"
    perception.parent.mkdir()
    perception.write_text(json.dumps({"samples": 200, "tasks": {"ALFWorld": {"place": 0.25, "in hand": 0.5}}}))
    made.base_perceptions["ALFWorld"] = perception
    build_tables(**made.inputs, out=tmp_path / "tables", scale="embedded")
    rows = read(tmp_path / "tables", "perception")
    assert {row["games"] for row in pick(rows, task="NumberLine")} == {""}
    assert {row["games"] for row in pick(rows, task="ALFWorld", stage="ppo")} == {"generated games"}
    # What the base model was probed on is not known from its perception.json.
    assert {row["games"] for row in pick(rows, task="ALFWorld", stage="pretraining")} == {""}
    wide = (tmp_path / "tables" / "perception.md").read_text(encoding="utf-8")
    (line,) = [line for line in wide.splitlines() if "ALFWorld" in line and "place" in line]
    assert cells(line) == [
        "ALFWorld (generated games)",
        "place",
        "25.0 (200)",
        "",
        "90.0 (40 of 44)",
    ]
    assert "the games that it was made on" in wide


@pytest.mark.parametrize(
    ("source", "games", "notes"),
    [
        ("official, drawn pictures", "official games, drawn pictures", ["Drawn pictures are this project's"]),
        ("official", "official games", []),
    ],
)
def test_the_benchmarks_games_in_drawn_images_are_not_the_benchmark(tmp_path, source, games, notes):
    made = make_results(tmp_path, tasks=["NumberLine"], episodes=10)
    run = "ALFWorld-cot-lambda0.2-seed1"
    add_household(made, f"ppo-{run}", {"Pick": (3, 4)}, games="seen", data_sources=[source])
    build_tables(**made.inputs, out=tmp_path / "tables", scale="embedded")
    row = one(read(tmp_path / "tables", "main"), task="Pick", method="RL4VLM", source="reproduced")
    assert row["scale"] == f"embedded, {games}, seen"
    wide = (tmp_path / "tables" / "main.md").read_text(encoding="utf-8")
    assert [note for note in NOT_THE_BENCHMARK.values() if note in wide] == notes
    assert ("not to be compared with published" in wide) == bool(notes)


def test_kinds_that_were_not_played_so_are_refused(tmp_path):
    made = make_results(tmp_path, tasks=["NumberLine"], episodes=10)
    folder = add_household(made, "ppo-x", {"Pick": (3, 4), "Look": (0, 2)})
    episodes = folder / "episodes.jsonl"
    episodes.write_text(episodes.read_text().replace("Look", "Pick"))
    with pytest.raises(ValueError, match=r"ppo-x.*counts 3 successes in 4 episodes of Pick, .* beside it 3 in 6"):
        build_tables(**made.inputs, out=tmp_path / "tables", scale="embedded")


def test_a_table_of_an_earlier_config_does_not_stop_a_later_one(tmp_path):
    made = make_results(tmp_path, tasks=["EZPoints"], episodes=10)
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "ablations.csv").write_text("of an earlier config")
    build_tables(**made.inputs, out=tmp_path / "tables", scale="embedded")
    assert "ablations.csv" not in json.loads((tmp_path / "tables" / "run.json").read_text())["outputs"]
