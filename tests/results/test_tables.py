"""The tables: every number under its own label, averages and seeds as the docstrings say, gaps left empty."""

import csv
import json
from shutil import copytree

import pytest

from rl4vlm.results.intervals import wilson
from rl4vlm.results.names import TABLES, table_files
from rl4vlm.results.tables import _cell, build_tables
from tests.results.synthetic import Synthetic, add_evaluation, make_results, write_lines

COLUMNS = [
    "method",
    "task",
    "source",
    "scale",
    "success_rate",
    "ci_low",
    "ci_high",
    "mean_return",
    "episodes",
    "seeds",
    "protocol",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_results(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def tables(made, tmp_path_factory):
    out = tmp_path_factory.mktemp("tables")
    build_tables(**made.inputs, out=out, scale="embedded")
    return out


def cells(line):
    """The cells of a line of a Markdown table."""
    return [cell.strip() for cell in line.strip("|").split("|")]


def read(folder, name):
    with (folder / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def pick(rows, **wanted):
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def one(rows, **wanted):
    found = pick(rows, **wanted)
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize("name", ["main", "cot", "lambda"])
def test_columns(tables, name):
    assert list(read(tables, name)[0]) == COLUMNS


def test_held_out_row(tables):
    row = one(read(tables, "main"), method="RL4VLM", task="EZPoints", source="reproduced", protocol="held_out")
    low, high = wilson(124, 200)
    assert float(row["success_rate"]) == 62
    assert (float(row["ci_low"]), float(row["ci_high"])) == pytest.approx((100 * low, 100 * high), abs=1e-3)
    assert (row["scale"], row["episodes"], row["seeds"]) == ("embedded", "200", "1")
    assert float(row["mean_return"]) == pytest.approx(0.24)


def test_average_over_the_card_games_is_unweighted(tables):
    row = one(read(tables, "main"), method="RL4VLM", task="gym_cards_avg", source="reproduced", protocol="held_out")
    assert float(row["success_rate"]) == pytest.approx((95 + 62 + 3 + 42) / 4)
    assert float(row["ci_low"]) < float(row["success_rate"]) < float(row["ci_high"])
    assert (row["mean_return"], row["episodes"]) == ("", "800")


def test_an_average_is_over_the_first_set_of_each_game(tmp_path):
    made = make_results(tmp_path, episodes=40)
    add_evaluation(made, "solver-EZPoints@hard", "EZPoints", "solver", "scripted", 0.0, 40, games="hard")
    build_tables(**made.inputs, out=tmp_path / "tables", scale="embedded")
    rows = pick(read(tmp_path / "tables", "main"), method="solver", source="reproduced")
    assert one(rows, task="gym_cards_avg")["episodes"] == "160"


def test_what_rounds_to_zero_has_no_minus_sign():
    assert _cell(-0.04, -0.05, 0.04) == "0.0 [-0.1, 0.0]"
    assert _cell(-0.04) == "0.0"


def test_an_average_that_misses_a_game_is_absent(tmp_path):
    made = make_results(tmp_path, tasks=["NumberLine", "EZPoints"], episodes=10)
    build_tables(**made.inputs, out=tmp_path / "tables", scale="embedded")
    rows = pick(read(tmp_path / "tables", "main"), source="reproduced")
    assert rows
    assert not pick(rows, task="gym_cards_avg")


def test_rolling_peak_row_is_the_best_full_window_and_has_no_interval(tables, made):
    run = next(folder for folder in made.training_runs if folder.name == "NumberLine-cot-lambda0.5-seed1")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    best = max(line["success_rate"] for line in lines if line["window"] == 200)
    row = one(read(tables, "main"), method="RL4VLM", task="NumberLine", source="reproduced", protocol="rolling_peak")
    assert float(row["success_rate"]) == pytest.approx(100 * best)
    assert (row["ci_low"], row["ci_high"], row["mean_return"], row["seeds"]) == ("", "", "", "1")


def test_only_trained_methods_have_a_rolling_peak(tables):
    peaks = pick(read(tables, "main"), source="reproduced", protocol="rolling_peak")
    assert {row["method"] for row in peaks} == {"RL4VLM", "RL4VLM-noCoT"}


def test_published_and_reference_rows_are_labelled_and_bare(tables):
    rows = read(tables, "main")
    published = one(rows, method="RL4VLM", task="NumberLine", source="published", scale="paper")
    assert (published["scale"], published["success_rate"], published["protocol"]) == ("paper", "89.4", "rolling_peak")
    reference = one(rows, method="random", task="Blackjack", source="reference")
    assert (reference["scale"], reference["success_rate"], reference["protocol"]) == ("", "28.06", "")
    for row in (published, reference):
        assert [row[key] for key in ("ci_low", "ci_high", "mean_return", "episodes", "seeds")] == [""] * 5


def test_published_numbers_fill_no_gap(tmp_path):
    made = make_results(tmp_path, tasks=["NumberLine"], styles=["cot"], episodes=10)
    build_tables(**made.inputs, out=tmp_path / "tables", scale="smoke")
    rows = read(tmp_path / "tables", "main")
    assert pick(rows, method="CNN+RL", source="published")
    assert not pick(rows, method="CNN+RL", source="reproduced")
    assert {row["task"] for row in pick(rows, source="reproduced")} == {"NumberLine"}
    assert not pick(rows, method="RL4VLM-noCoT", source="reproduced")
    # With one style there is nothing to compare.
    assert not (tmp_path / "tables" / "cot.csv").exists()


def test_scripted_policies_are_reproduced_rows_without_seeds(tables):
    row = one(read(tables, "main"), method="solver", task="Points24", source="reproduced")
    assert (float(row["success_rate"]), row["seeds"], row["protocol"]) == (73, "", "held_out")


def test_seeds_are_pooled(tmp_path):
    made = make_results(tmp_path, tasks=["EZPoints"], styles=["cot"], seeds=(3, 1), episodes=100)
    build_tables(**made.inputs, out=tmp_path / "tables", scale="embedded")
    row = one(
        read(tmp_path / "tables", "main"), method="RL4VLM", task="EZPoints", source="reproduced", protocol="held_out"
    )
    assert (float(row["success_rate"]), row["episodes"], row["seeds"]) == (61.0, "200", "1 3")


def test_only_named_folders_count(tmp_path):
    made = make_results(tmp_path, tasks=["EZPoints"], styles=["cot"], episodes=10)
    named = made.inputs | {"evaluations": list(made.evaluations)}
    add_evaluation(made, "ppo-EZPoints-cot-lambda0.5-seed9", "EZPoints", "RL4VLM", "ppo", 1.0, 10, seed=9)
    build_tables(**named, out=tmp_path / "tables", scale="embedded")
    rows = pick(read(tmp_path / "tables", "main"), method="RL4VLM", source="reproduced")
    assert {row["seeds"] for row in rows} == {"1"}


def test_cot_table_holds_the_styles_and_their_starts(tables):
    rows = read(tables, "cot")
    assert {row["method"] for row in rows} == {"RL4VLM", "RL4VLM-noCoT", "LLaVA-sft", "LLaVA-sft-noCoT"}
    start = one(rows, method="LLaVA-sft-noCoT", task="NumberLine", source="reproduced")
    assert float(start["success_rate"]) == 25
    assert not pick(read(tables, "main"), method="LLaVA-sft-noCoT")


def test_lambda_table(tables):
    rows = read(tables, "lambda")
    held_out = pick(rows, source="reproduced", protocol="held_out")
    assert {row["method"]: float(row["success_rate"]) for row in held_out} == {
        "RL4VLM lambda=0.1": 30,
        "RL4VLM lambda=0.3": 90,
        "RL4VLM lambda=0.5": 95,
        "RL4VLM lambda=0.7": 40,
        "RL4VLM lambda=0.9": 27,
    }
    assert {row["task"] for row in rows} == {"NumberLine"}
    assert one(rows, method="RL4VLM lambda=0.3", source="published")["success_rate"] == "87.0"
    main = pick(read(tables, "main"), source="reproduced")
    assert not [row for row in main if "lambda" in row["method"]]


def test_cnn_has_its_own_rows_beside_the_published_ones(tmp_path):
    made = make_results(tmp_path, episodes=200, cnn=True)
    build_tables(**made.inputs, out=tmp_path / "tables", scale="embedded")
    rows = pick(read(tmp_path / "tables", "main"), method="CNN+RL")
    for task, rate in (("NumberLine", 98), ("EZPoints", 0), ("Points24", 0), ("Blackjack", 39)):
        row = one(rows, task=task, source="reproduced", protocol="held_out")
        assert (float(row["success_rate"]), row["episodes"], row["seeds"]) == (rate, "200", "1")
        assert one(rows, task=task, source="reproduced", protocol="rolling_peak")["seeds"] == "1"
        assert one(rows, task=task, source="published")["scale"] == "paper"
    average = one(rows, task="gym_cards_avg", source="reproduced", protocol="held_out")
    assert float(average["success_rate"]) == pytest.approx((98 + 0 + 0 + 39) / 4)
    assert one(rows, task="gym_cards_avg", source="published")
    for other in ("cot", "lambda", "perception"):
        assert not pick(read(tmp_path / "tables", other), method="CNN+RL")


def test_partial_results_are_marked_and_explained(tmp_path):
    made = make_results(tmp_path, styles=["cot"], episodes=10)
    add_evaluation(made, "api-m-EZPoints", "EZPoints", "GPT-4o", "api", 0.5, 4, partial=True)
    add_evaluation(made, "api-m-NumberLine", "NumberLine", "GPT-4o", "api", 0.5, 10, partial=False)
    build_tables(**made.inputs, out=tmp_path / "tables", scale="embedded")
    text = (tmp_path / "tables" / "main.md").read_text(encoding="utf-8")
    (line,) = [cells(line) for line in text.splitlines() if line.startswith("| GPT-4o ")]
    assert [cell[:6] for cell in line if cell.startswith("50.0")] == ["50.0 [", "50.0† "]
    assert text.count("†") == 2
    assert "† Partial: the policy stopped" in text
    assert (tmp_path / "tables" / "main.tex").read_text(encoding="utf-8").count(r"\dag{}") == 2
    assert "†" not in (tmp_path / "tables" / "lambda.md").read_text(encoding="utf-8")
    row = one(read(tmp_path / "tables", "main"), method="GPT-4o", task="EZPoints")
    assert (row["episodes"], list(row)) == ("4", COLUMNS)


def test_an_average_over_a_partial_result_is_partial(tmp_path):
    made = make_results(tmp_path, styles=["cot"], episodes=10)
    for task in ("NumberLine", "EZPoints", "Points24", "Blackjack"):
        add_evaluation(made, f"api-m-{task}", task, "GPT-4o", "api", 0.5, 4, partial=task == "EZPoints")
    build_tables(**made.inputs, out=tmp_path / "tables", scale="embedded")
    text = (tmp_path / "tables" / "main.md").read_text(encoding="utf-8")
    (line,) = [cells(line) for line in text.splitlines() if line.startswith("| GPT-4o ")]
    assert [cell.count("†") for cell in line[2:7]] == [0, 1, 0, 0, 1]


def test_the_record_names_every_file_that_was_read(made, tables):
    record = json.loads((tables / "run.json").read_text())
    assert (record["stage"], record["settings"]["scale"]) == ("tables", "embedded")
    files = len(made.evaluations) * 2 + len(made.training_runs) * 2 + 1
    assert len(record["inputs"]) == files
    assert all(len(read["sha256"]) == 64 for read in record["inputs"].values())


def test_without_the_base_models_perception_it_has_no_row(made, tmp_path):
    build_tables(**made.inputs | {"base_perceptions": {}}, out=tmp_path, scale="embedded")
    rows = read(tmp_path, "perception")
    assert rows
    assert not pick(rows, method="base model")


def test_perception_table(tables):
    rows = read(tables, "perception")
    assert list(rows[0]) == ["stage", "method", "task", "field", "scale", "accuracy", "n", "not_stated", "games"]
    base = one(rows, method="base model", task="NumberLine", field="target number")
    assert (base["stage"], base["accuracy"], base["n"]) == ("pretraining", "95.0", "200")
    trained = one(rows, method="RL4VLM", task="Blackjack", field="dealer card")
    assert (trained["stage"], trained["accuracy"], trained["n"], trained["not_stated"]) == (
        "ppo",
        "90.0",
        "2000",
        "200",
    )
    assert {row["method"] for row in rows} == {"base model", "LLaVA-sft", "RL4VLM"}


def test_a_field_that_no_reply_states_has_no_accuracy(made, tmp_path):
    folder = next(folder for folder in made.evaluations if folder.name.startswith("sft-EZPoints-cot"))
    lines = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    unstated = {"cards": {"right": 0, "wrong": 0, "not_stated": 1}}
    copy = tmp_path / folder.name
    copytree(folder, copy)
    write_lines(copy / "episodes.jsonl", [{**line, "perception": unstated} for line in lines])
    evaluations = [copy if other == folder else other for other in made.evaluations]
    build_tables(**made.inputs | {"evaluations": evaluations}, out=tmp_path / "tables", scale="embedded")
    row = one(read(tmp_path / "tables", "perception"), method="LLaVA-sft", task="EZPoints")
    assert (row["accuracy"], row["n"], row["not_stated"]) == ("", "0", "200")
    assert "not stated (200)" in (tmp_path / "tables" / "perception.md").read_text(encoding="utf-8")


def test_markdown_sets_reproduced_beside_published(tables):
    lines = [cells(line) for line in (tables / "main.md").read_text(encoding="utf-8").splitlines()]
    assert lines[0] == ["method", "source", "NumberLine", "EZPoints", "Points24", "Blackjack", "card average"]
    start = next(k for k, line in enumerate(lines) if line[0] == "RL4VLM")
    assert lines[start][1:3] == ["reproduced (embedded), held out", "95.0 [91.0, 97.3]"]
    assert lines[start][3].startswith("62.0 [")
    assert lines[start + 1][:2] == ["", "reproduced (embedded), rolling peak"]
    assert lines[start + 2] == ["", "published (paper)", "89.4", "50.0", "2.3", "40.2", "45.5"]
    assert lines[start + 3] == ["", "published (CoSo, second-hand)", "88.4", "50.0", "2.5", "39.3", ""]
    assert {len(line) for line in lines[: lines.index([""])]} == {7}
    # The works that it shows are cited.
    (caption,) = lines[-1]
    assert "CoSo, second-hand: arXiv 2505.03792; GTR-Turbo, second-hand: arXiv 2512.13043." in caption
    assert "Later works" not in (tables / "cot.md").read_text(encoding="utf-8")


def test_latex_is_escaped_and_balanced(tables):
    text = (tables / "lambda.tex").read_text(encoding="utf-8")
    assert text.count(r"\begin{") == text.count(r"\end{") == 2
    assert r"$\lambda$" in text
    assert "95 \\%" in text
    body = text.partition(r"\midrule")[2].partition(r"\bottomrule")[0]
    assert {line.count("&") for line in body.splitlines() if line.endswith(r"\\")} == {2}


def test_the_same_results_give_the_same_bytes(made, tables, tmp_path):
    build_tables(**made.inputs, out=tmp_path, scale="embedded")
    files = sorted(file.name for file in tables.iterdir() if file.name != "run.json")
    assert files == sorted(table_files([name for name in TABLES if name != "ablations"]))
    assert all((tmp_path / file).read_bytes() == (tables / file).read_bytes() for file in files)


def test_results_in_which_nothing_can_be_compared_give_tables(tmp_path):
    made = Synthetic(tmp_path)
    add_evaluation(made, "random-EZPoints", "EZPoints", "random", "scripted", 0.1, 5)
    build_tables(**made.inputs, out=tmp_path / "tables", scale="embedded")
    assert not read(tmp_path / "tables", "differences")
    assert one(read(tmp_path / "tables", "main"), method="random", task="EZPoints", source="reproduced")
