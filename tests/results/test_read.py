"""Reading results back: what is taken from which file, and errors that name the file and the line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rl4vlm.config.stages.evaluation import EvaluationSettings
from rl4vlm.core.types import Style
from rl4vlm.evaluation.run import run as play_episodes
from rl4vlm.results.collection import Results
from rl4vlm.results.read import CurvePoint, Readings, TrainingRun, load_evaluation, load_training_run
from tests.results.synthetic import Synthetic, add_evaluation, add_training_run, make_results


@pytest.fixture
def made(tmp_path):
    return Synthetic(tmp_path)


@pytest.fixture
def evaluation(made):
    extra: dict[str, Any] = {"logprob_thoughts": -8.5, "logprob_action": -0.25, "lambda": 0.3}
    name, method = "ppo-NumberLine-cot-lambda0.3-seed2", "RL4VLM"
    return add_evaluation(made, name, "NumberLine", method, "ppo", 0.75, 20, seed=2, reads=True, **extra)


def run(curve):
    return TrainingRun(Path(), "RL4VLM", "NumberLine", 0.5, 1, tuple(CurvePoint(*point) for point in curve))


def test_evaluation(evaluation):
    found = load_evaluation(evaluation)
    assert (found.method, found.task, found.kind, found.thought_prob_coef, found.seed) == (
        "RL4VLM",
        "NumberLine",
        "ppo",
        0.3,
        2,
    )
    assert (found.successes, found.episodes, found.success_rate) == (15, 20, 75.0)
    assert (found.logprob_thoughts, found.logprob_action) == (-8.5, -0.25)
    readings = Readings(right=180, wrong=20, not_stated=20)
    assert found.perception == {"current number": readings, "target number": readings}


def test_training_run_is_what_its_record_says_and_skips_updates_without_episodes(made):
    found = load_training_run(add_training_run(made, "Blackjack-nocot-lambda0.5-seed7", 0.3, 0.4, seed=7, updates=3))
    assert (found.method, found.task, found.thought_prob_coef, found.seed) == ("RL4VLM-noCoT", "Blackjack", 0.5, 7)
    assert [point.env_steps for point in found.curve] == [1024, 1536]
    assert all(0 <= point.success_rate <= 100 for point in found.curve)


def test_a_run_of_the_cnn_has_no_lambda(made):
    found = load_training_run(add_training_run(made, "Blackjack-seed7", 0.3, 0.4, seed=7, updates=3))
    assert (found.method, found.task, found.thought_prob_coef, found.seed) == ("CNN+RL", "Blackjack", None, 7)


def test_peak_counts_full_windows_only():
    assert run([(1, 90.0, 10), (2, 40.0, 200), (3, 60.0, 200), (4, 50.0, 200)]).peak == CurvePoint(3, 60.0, 200)
    assert run([(1, 90.0, 10), (2, 40.0, 50)]).peak == CurvePoint(2, 40.0, 50)
    assert run([]).peak is None


def test_further_lambdas_are_not_the_method(tmp_path):
    made = make_results(tmp_path, tasks=["NumberLine"], lambdas=(0.1, 0.5), episodes=10)
    results = Results.load(**made.inputs)
    assert results.lambdas("NumberLine") == [0.1, 0.5]
    assert [run.thought_prob_coef for run in results.main_runs("RL4VLM")] == [0.5]
    assert [run.thought_prob_coef for run in results.main_evaluations("RL4VLM")] == [0.5]
    other = Results.load(**made.inputs | {"thought_prob_coef": {"NumberLine": 0.1}})
    assert [run.thought_prob_coef for run in other.main_runs("RL4VLM")] == [0.1]


def test_a_single_lambda_is_the_method_s_whatever_it_is(tmp_path):
    made = make_results(tmp_path, tasks=["NumberLine"], lambdas=(0.1,), episodes=10)
    assert Results.load(**made.inputs | {"thought_prob_coef": {}}).lambda_of("NumberLine") == 0.1


def test_several_lambdas_without_a_known_main_one_are_refused(tmp_path):
    made = make_results(tmp_path, tasks=["NumberLine"], lambdas=(0.1, 0.9), episodes=10)
    with pytest.raises(ValueError, match=r"NumberLine was trained with several λ \(0\.1, 0\.9\).*--thought-prob-coef"):
        Results.load(**made.inputs | {"thought_prob_coef": {}})


def test_a_lambda_that_no_run_has_is_refused(tmp_path):
    made = make_results(tmp_path, tasks=["NumberLine"], lambdas=(0.1, 0.5), episodes=10)
    with pytest.raises(ValueError, match=r"NumberLine has no run with λ 0\.7.*it has 0\.1, 0\.5"):
        Results.load(**made.inputs | {"thought_prob_coef": {"NumberLine": 0.7}})


@pytest.mark.parametrize("kind", ["evaluations", "training_runs"])
def test_the_same_run_in_two_folders_would_count_twice(tmp_path, kind):
    made = make_results(tmp_path, tasks=["NumberLine"], episodes=10)
    run = made.inputs[kind][-1]
    copy = run.with_name(f"{run.name}.bak")
    shutil.copytree(run, copy)
    for again in (copy, run):
        with pytest.raises(ValueError, match=rf"{run.name} and .*{again.name} are both .* on NumberLine"):
            Results.load(**made.inputs | {kind: [*made.inputs[kind], again]})


def play(out: Path, policy: str = "random", games: str = "", **env: Any) -> Path:
    settings = EvaluationSettings(episodes=4, games=games, env=env)
    play_episodes(policy=policy, task="EZPoints", style=Style.COT, out=out, settings=settings)
    return out


def test_two_sets_of_games_by_rules_are_two_rows(tmp_path: Path) -> None:
    first = play(tmp_path / "a", games="strict")
    second = play(tmp_path / "b", games="upstream", rules="upstream")
    found = Results.load(evaluations=[first, second], training_runs=[])
    assert [run.games_label for run in found.evaluations] == ["strict", "upstream"]


def test_the_same_episodes_by_other_rules_are_not_compared(tmp_path: Path) -> None:
    played = [play(tmp_path / "a"), play(tmp_path / "b", "solver", rules="upstream")]
    with pytest.raises(
        ValueError, match=r"a and .*b are of the same episodes of EZPoints, but not of the same game: env"
    ):
        Results.load(evaluations=played, training_runs=[])


def test_an_evaluation_on_the_games_of_training_is_no_held_out_result(evaluation: Path) -> None:
    summary = json.loads((evaluation / "summary.json").read_text())
    (evaluation / "summary.json").write_text(json.dumps(summary | {"protocol": "training_games"}))
    with pytest.raises(ValueError, match=r"summary\.json: training_games, so it is no held-out evaluation"):
        load_evaluation(evaluation)


def test_runs_come_in_the_order_of_their_seeds(tmp_path):
    made = make_results(tmp_path, tasks=["EZPoints"], seeds=(10, 2), episodes=10)
    assert [run.seed for run in Results.load(**made.inputs).main_runs("RL4VLM")] == [2, 10]


@pytest.mark.parametrize("file", ["summary.json", "episodes.jsonl"])
def test_missing_file_is_named(evaluation, file):
    (evaluation / file).unlink()
    with pytest.raises(ValueError, match=f"{file} is missing"):
        load_evaluation(evaluation)


def test_broken_line_is_named(evaluation):
    with (evaluation / "episodes.jsonl").open("a") as file:
        file.write('{"episode": 20, "succ\n')
    with pytest.raises(
        ValueError, match=r"episodes\.jsonl, line 21 is not JSON: .*; delete .* and run this evaluation again"
    ):
        load_evaluation(evaluation)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("[1, 2]", " is no JSON object"),
        ('{"success": true, "return": NaN}', " is not JSON: NaN is no finite number"),
        ('{"success": true, "return": 1e999}', " is not JSON: 1e999 is no finite number"),
        ('{"seed": 20, "perception": {}}', ": 'success': Field required"),
        ('{"seed": 20, "success": true, "reading": {}}', ": 'perception': Field required"),
        (
            '{"seed": 20, "success": true, "perception": {"cards": {"right": 1}}}',
            r": 'perception\.cards\.wrong': Field required",
        ),
    ],
)
def test_line_that_says_something_else_is_named(evaluation, line, complaint):
    with (evaluation / "episodes.jsonl").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(ValueError, match=rf"episodes\.jsonl, line 21{complaint}"):
        load_evaluation(evaluation)


@pytest.mark.parametrize("key", ["method", "kind", "task", "episodes", "successes", "success_rate", "mean_return"])
def test_missing_entry_of_a_summary_is_named(evaluation, key):
    file = evaluation / "summary.json"
    summary = json.loads(file.read_text())
    del summary[key]
    file.write_text(json.dumps(summary))
    with pytest.raises(ValueError, match=rf"summary\.json: '{key}': Field required"):
        load_evaluation(evaluation)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-1e999", "101", "-1"])
def test_impossible_number_of_a_summary_is_refused(evaluation, value):
    file = evaluation / "summary.json"
    file.write_text(file.read_text().replace('"success_rate": 75.0', f'"success_rate": {value}'))
    with pytest.raises(ValueError, match=r"summary\.json( is not JSON|: 'success_rate': )"):
        load_evaluation(evaluation)


def test_summary_that_disagrees_with_its_episodes_is_refused(evaluation):
    lines = (evaluation / "episodes.jsonl").read_text().splitlines(keepends=True)
    (evaluation / "episodes.jsonl").write_text("".join(lines[1:]))
    with pytest.raises(ValueError, match=r"15 successes in 20 episodes.* 14 in 19"):
        load_evaluation(evaluation)


def test_broken_metrics_are_named(made):
    folder = add_training_run(made, "EZPoints-cot-lambda0.5-seed1", 0.1, 0.5, seed=1, updates=3)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"success_rate": 0.5, "env_steps": "many", "window": 200}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 4: 'env_steps': .*integer.*'many'"):
        load_training_run(folder)


def test_the_name_of_a_folder_says_nothing(made):
    folder = add_training_run(made, "EZPoints-cot-lambda0.5-seed1", 0.1, 0.5, seed=3, updates=3)
    found = load_training_run(folder.rename(folder.with_name("my-run")))
    assert (found.method, found.task, found.thought_prob_coef, found.seed) == ("RL4VLM", "EZPoints", 0.5, 3)


def change_record(folder, **settings):
    record = json.loads((folder / "run.json").read_text())
    record["settings"] = settings
    (folder / "run.json").write_text(json.dumps(record))


def test_a_record_of_an_older_version_is_refused_with_what_to_do(made):
    folder = add_training_run(made, "EZPoints-cot-lambda0.5-seed1", 0.1, 0.5, seed=1, updates=3)
    change_record(folder, task="EZPoints", style="cot", thought_weight=0.5)
    with pytest.raises(ValueError, match=r"seed1/run\.json has no settings\.thought_prob_coef.*rerun this training"):
        load_training_run(folder)


def test_a_folder_of_another_stage_is_no_training_run(made):
    folder = add_training_run(made, "EZPoints-seed1", 0.1, 0.5, seed=1, updates=3)
    (folder / "run.json").write_text('{"stage": "sft", "settings": {"task": "EZPoints"}}')
    with pytest.raises(ValueError, match=r"run\.json is of stage 'sft', not of a PPO or CNN\+RL run"):
        load_training_run(folder)
    (folder / "run.json").unlink()
    with pytest.raises(ValueError, match=r"run\.json is missing"):
        load_training_run(folder)


def test_broken_base_perception_is_named(tmp_path):
    file = tmp_path / "perception.json"
    file.write_text('{"samples": 5, "tasks": {"EZPoints": {"cards": "all"}}}')
    with pytest.raises(ValueError, match=r"perception\.json: 'tasks\.EZPoints\.cards': .*number.*'all'"):
        Results.load(evaluations=[], training_runs=[], base_perceptions={"NumberLine": file})
