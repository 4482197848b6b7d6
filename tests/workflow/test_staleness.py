"""What an edit makes run again: what it can change, and nothing else."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.workflow.conftest import Job, Workspace

FIGURES = {"training_curves", "cot_ablation", "lambda_ablation", "logprob_balance", "perception"}
RESULTS = FIGURES | {"tables", "gallery", "readme_assets"}


def rules(jobs: list[Job]) -> set[str]:
    return {job.rule for job in jobs}


def test_nothing_changed_nothing_runs(finished: Workspace) -> None:
    assert finished.planned() == []


def test_the_same_bytes_written_again_run_nothing(finished: Workspace) -> None:
    with finished.commented("rl4vlm/ppo/losses.py"):
        pass
    assert finished.planned() == []


def test_one_lambda_reruns_that_run_and_what_it_feeds(finished: Workspace) -> None:
    with finished.edited("config/config.yaml", "NumberLine: [0.1, 0.3,", "NumberLine: [0.1, 0.35,"):
        jobs = finished.planned()
    trained = "task=NumberLine, style=cot, lam=0.35, seed=1"
    assert {job for job in jobs if job.rule not in RESULTS} == {Job("ppo", trained), Job("evaluate_ppo", trained)}
    # The run is no part of the other figures.
    assert rules(jobs) & FIGURES == {"lambda_ablation"}
    assert "tables" in rules(jobs)


def test_one_seed_adds_that_seeds_runs(finished: Workspace) -> None:
    with finished.edited("config/config.yaml", "seeds: [1]", "seeds: [1, 2]"):
        jobs = finished.planned()
    assert rules(jobs) <= RESULTS | {"ppo", "evaluate_ppo", "cnn", "evaluate_cnn"}
    trained = [job for job in jobs if job.rule in ("ppo", "cnn")]
    assert {job.rule for job in trained} == {"ppo", "cnn"}
    assert all(job.wildcards.endswith("seed=2") for job in trained)


def test_one_tasks_setting_reruns_that_tasks_runs(finished: Workspace) -> None:
    with finished.edited("config/scales/embedded.yaml", "minibatch_size: 256, ", "minibatch_size: 64, "):
        jobs = finished.planned()
    assert rules(jobs) <= RESULTS | {"ppo", "evaluate_ppo"}
    trained = [job for job in jobs if job.rule == "ppo"]
    assert Counter(job.wildcards.split(",")[0] for job in trained) == {"task=Blackjack": 2}


def test_an_edit_to_ppo_retrains_ppo_and_not_sft(finished: Workspace) -> None:
    with finished.commented("rl4vlm/ppo/losses.py"):
        jobs = finished.planned()
    everything = Counter(job.rule for job in finished.planned("--forceall"))
    assert Counter(job.rule for job in jobs)["ppo"] == everything["ppo"]
    # The baseline is trained by the same losses.
    trained = {"ppo", "evaluate_ppo", "evaluate_over_http", "cnn", "evaluate_cnn"}
    assert rules(jobs) == RESULTS | trained


@pytest.mark.parametrize("name", ["models/cnn.py", "policies/cnn.py"])
def test_an_edit_to_the_cnn_reruns_the_baseline_alone(finished: Workspace, name: str) -> None:
    with finished.commented(f"rl4vlm/{name}"):
        jobs = finished.planned()
    assert Counter(job.rule for job in jobs)["cnn"] == 5
    assert rules(jobs) == {"cnn", "evaluate_cnn", "tables", "training_curves", "gallery", "readme_assets"}


def test_a_setting_of_the_cnn_for_one_game_reruns_that_run_alone(finished: Workspace) -> None:
    with finished.edited(
        "config/scales/embedded.yaml", "Blackjack: {total_env_steps: 15360", "Blackjack: {total_env_steps: 20480"
    ):
        jobs = finished.planned()
    trained = "task=Blackjack, seed=1"
    assert {job for job in jobs if job.rule not in RESULTS} == {Job("cnn", trained), Job("evaluate_cnn", trained)}
    assert rules(jobs) & FIGURES == {"training_curves"}


def test_a_setting_of_language_models_leaves_the_cnns_evaluation(finished: Workspace) -> None:
    with finished.edited(
        "config/scales/embedded.yaml",
        "    temperature: 0.6\n    max_new_tokens: 64\n    dtype",
        "    max_new_tokens: 65\n    dtype",
    ):
        jobs = finished.planned()
    assert "evaluate_ppo" in rules(jobs)
    assert not rules(jobs) & {"cnn", "evaluate_cnn"}


def test_an_edit_to_sft_reruns_sft_and_not_the_data(finished: Workspace) -> None:
    with finished.commented("rl4vlm/sft/train.py"):
        jobs = finished.planned()
    assert rules(jobs) == RESULTS | {"sft", "evaluate_sft", "ppo", "evaluate_ppo", "evaluate_over_http"}


def test_an_edit_to_evaluation_trains_nothing(finished: Workspace) -> None:
    with finished.commented("rl4vlm/evaluation/run.py"):
        jobs = finished.planned()
    evaluations = {"evaluate_scripted", "evaluate_sft", "evaluate_ppo", "evaluate_cnn", "evaluate_over_http"}
    assert rules(jobs) == RESULTS | evaluations


@pytest.mark.parametrize("name", ["results/tables.py", "figures/style.py"])
def test_an_edit_to_figures_trains_and_plays_nothing(finished: Workspace, name: str) -> None:
    with finished.commented(f"rl4vlm/{name}"):
        jobs = finished.planned()
    assert jobs
    assert rules(jobs) <= RESULTS


def test_a_colour_redraws_figures_alone(finished: Workspace) -> None:
    with finished.edited("config/config.yaml", 'RL4VLM: "#0072B2"', 'RL4VLM: "#000000"'):
        jobs = finished.planned()
    assert rules(jobs) == FIGURES | {"readme_assets"}


def test_an_edit_to_one_game_leaves_the_others_runs(finished: Workspace) -> None:
    with finished.commented("rl4vlm/tasks/blackjack.py"):
        jobs = [job for job in finished.planned() if job.rule in ("evaluate_scripted", "sft_data")]
    assert {job.wildcards.split("task=")[1].split(",")[0] for job in jobs} == {"Blackjack"}


def test_an_edit_to_the_command_line_runs_nothing(finished: Workspace) -> None:
    with finished.commented("rl4vlm/cli/commands.py"):
        assert finished.planned() == []


def test_an_edit_to_what_enumerates_the_runs_runs_nothing(finished: Workspace) -> None:
    with finished.commented("rl4vlm/config/runs.py"):
        assert finished.planned() == []


def test_the_report_of_finished_results_has_every_table_and_figure(finished: Workspace) -> None:
    done = finished.snakemake(profile="profiles/default")
    assert done.returncode == 0, done.stderr
    page = (finished.folder / "results" / "report.html").read_text()
    for name in [*(f"tables/{table}.csv" for table in ("main", "cot", "lambda", "perception")), *FIGURES]:
        assert name in page


def test_an_edit_to_the_http_client_reruns_what_is_asked_over_http(finished: Workspace) -> None:
    with finished.commented("rl4vlm/policies/api/client.py"):
        jobs = finished.planned()
    assert {job.rule for job in jobs if job.rule not in RESULTS} == {"evaluate_over_http"}


@pytest.mark.parametrize("name", ["page.js", "replay.py"])
def test_an_edit_to_the_gallery_remakes_it_alone(finished: Workspace, name: str) -> None:
    with finished.commented(f"rl4vlm/gallery/{name}"):
        assert finished.planned() == [Job("gallery")]


GAMMAS = "    gamma: 0.9\n    gae_lambda: 0.95\n"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(
            f"{GAMMAS}    advantage_epsilon",
            "    gae_lambda: 0.95\n    gamma: 0.9\n    advantage_epsilon",
            id="lines in another order",
        ),
        pytest.param("    ratio_limit: 10.0\n", "    ratio_limit: 10\n", id="a whole number for a float"),
        pytest.param("    adam_epsilon: 1.0e-7\n", "    adam_epsilon: 1e-7\n", id="a text to YAML 1.1"),
        pytest.param("    ratio_limit: 10.0\n", "", id="left to the default of the setting"),
    ],
)
def test_another_spelling_of_the_same_settings_runs_nothing(finished: Workspace, old: str, new: str) -> None:
    with finished.edited("config/scales/embedded.yaml", old, new):
        assert finished.planned() == []
