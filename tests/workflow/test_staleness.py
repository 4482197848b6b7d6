"""An edit reruns the jobs whose results it can change, and no others."""

from __future__ import annotations

import ast
import os
from collections import Counter

import pytest

from tests.workflow.conftest import Job, Workspace

pytestmark = pytest.mark.system

FIGURES = {"training_curves", "cot_ablation", "logprob_balance", "perception"}
RESULTS = FIGURES | {"tables", "gallery", "readme_assets"}


def rules(jobs: list[Job]) -> set[str]:
    """The rules of jobs, without the sets of games in the names of evaluations."""
    return {job.rule.partition("_also_")[0] for job in jobs}


def test_nothing_changed_nothing_runs(finished: Workspace) -> None:
    assert finished.planned() == []


def test_comments_docstrings_and_formatting_rerun_nothing(finished: Workspace) -> None:
    """Every module at once: formatted anew, without its comments, and with every docstring reworded."""
    files = {file: file.read_text() for file in (finished.folder / "rl4vlm").rglob("*.py")}
    docstrings = 0
    try:
        for file, text in files.items():
            tree = ast.parse(text)
            for node in ast.walk(tree):
                match node:
                    case ast.Expr(value=ast.Constant(value=str(docstring))):
                        node.value = ast.Constant(f"{docstring} Reworded.")
                        docstrings += 1
            file.write_text(f"# A comment.\n{ast.unparse(tree)}\n")
        assert docstrings > 500
        assert finished.planned() == []
    finally:
        for file, text in files.items():
            file.write_text(text)


def test_one_lambda_reruns_that_run_and_what_it_feeds(finished: Workspace) -> None:
    with finished.edited("config/config.yaml", "ablations: null", "ablations: {lambda: {NumberLine: [0.35]}}"):
        jobs = finished.planned()
    trained = "task=NumberLine, style=cot, lam=0.35, seed=1"
    played = {job for job in jobs if job.rule not in RESULTS | {"lambda_ablation"}}
    assert played == {Job("ppo", trained), Job("evaluate_ppo", trained)}
    # The other figures do not show this run.
    assert rules(jobs) & FIGURES == set()
    assert rules(jobs) >= {"tables", "lambda_ablation"}


def test_one_seed_adds_that_seeds_runs(finished: Workspace) -> None:
    with finished.edited("config/config.yaml", "seeds: [1]", "seeds: [1, 2]"):
        jobs = finished.planned()
    assert rules(jobs) <= RESULTS | {"sft", "evaluate_sft", "ppo", "evaluate_ppo", "cnn", "evaluate_cnn"}
    trained = [job for job in jobs if job.rule in ("sft", "ppo", "cnn")]
    assert {job.rule for job in trained} == {"sft", "ppo", "cnn"}
    assert all(job.wildcards.endswith("seed=2") for job in trained)


def test_one_tasks_setting_reruns_that_tasks_runs(finished: Workspace) -> None:
    with finished.edited("config/scales/embedded.yaml", "minibatch_size: 128\n", "minibatch_size: 64\n"):
        jobs = finished.planned()
    assert rules(jobs) <= RESULTS | {"ppo", "evaluate_ppo"}
    trained = [job for job in jobs if job.rule == "ppo"]
    assert Counter(job.wildcards.split(",")[0] for job in trained) == {"task=Blackjack": 2}


def test_one_expression_in_ppo_retrains_ppo_and_not_sft(finished: Workspace) -> None:
    with finished.edited("rl4vlm/ppo/losses.py", "return -surrogate, ratio", "return -2 * surrogate, ratio"):
        jobs = finished.planned()
    everything = Counter(job.rule for job in finished.planned("--forceall"))
    assert Counter(job.rule for job in jobs)["ppo"] == everything["ppo"]
    # CNN+RL is trained with the same losses.
    trained = {"ppo", "evaluate_ppo", "evaluate_over_http", "cnn", "evaluate_cnn"}
    assert rules(jobs) == RESULTS | trained


@pytest.mark.parametrize("name", ["models/cnn.py", "policies/cnn.py"])
def test_an_edit_to_the_cnn_reruns_only_that_baseline(finished: Workspace, name: str) -> None:
    with finished.appended(f"rl4vlm/{name}"):
        jobs = finished.planned()
    assert Counter(job.rule for job in jobs)["cnn"] == 5
    assert rules(jobs) == {"cnn", "evaluate_cnn", "tables", "training_curves", "gallery", "readme_assets"}


def test_a_setting_of_the_cnn_for_one_task_reruns_only_that_run(finished: Workspace) -> None:
    with finished.edited(
        "config/scales/embedded.yaml", "Blackjack: {total_env_steps: 15360", "Blackjack: {total_env_steps: 20480"
    ):
        jobs = finished.planned()
    trained = "task=Blackjack, seed=1"
    assert {job for job in jobs if job.rule not in RESULTS} == {Job("cnn", trained), Job("evaluate_cnn", trained)}
    assert rules(jobs) & FIGURES == {"training_curves"}


def test_a_setting_of_language_models_leaves_evaluations_of_other_policies(finished: Workspace) -> None:
    with finished.edited(
        "config/scales/embedded.yaml",
        "    num_envs: 64\n    dtype: float32\n",
        "    num_envs: 64\n    max_new_tokens: 65\n    dtype: float32\n",
    ):
        jobs = finished.planned()
    assert "evaluate_ppo" in rules(jobs)
    assert not rules(jobs) & {"cnn", "evaluate_cnn", "evaluate_scripted"}


def test_an_edit_to_sft_reruns_sft_and_not_the_data(finished: Workspace) -> None:
    with finished.appended("rl4vlm/sft/train.py"):
        jobs = finished.planned()
    assert rules(jobs) == RESULTS | {"sft", "evaluate_sft", "ppo", "evaluate_ppo", "evaluate_over_http"}


def test_an_edit_to_evaluation_trains_nothing(finished: Workspace) -> None:
    with finished.appended("rl4vlm/evaluation/run.py"):
        jobs = finished.planned()
    evaluations = {"evaluate_scripted", "evaluate_sft", "evaluate_ppo", "evaluate_cnn", "evaluate_over_http"}
    assert rules(jobs) == RESULTS | evaluations


@pytest.mark.parametrize(
    ("name", "drawn"),
    [
        ("figures/style.py", FIGURES),
        ("figures/training_curves.py", {"training_curves"}),
        ("results/tables.py", {"tables", "perception"}),
        ("results/page.py", set()),
    ],
)
def test_an_edit_to_figures_or_tables_redraws_those(finished: Workspace, name: str, drawn: set[str]) -> None:
    with finished.appended(f"rl4vlm/{name}"):
        assert rules(finished.planned()) == drawn | {"readme_assets"}


def test_an_edit_to_one_scripted_policy_evaluates_that_policy(finished: Workspace) -> None:
    with finished.appended("rl4vlm/policies/stand17.py"):
        jobs = [job for job in finished.planned() if job.rule not in RESULTS]
    assert jobs == [Job("evaluate_scripted", "policy=stand17, task=Blackjack")]


def test_a_new_scripted_policy_is_one_row(finished: Workspace) -> None:
    row = '    "cautious": ScriptedPolicy("cautious", "rl4vlm.policies.stand17:StandOn17Policy"),\n'
    before = "SCRIPTED: dict[str, ScriptedPolicy] = {\n"
    with finished.edited("rl4vlm/config/scripted.py", before, before + row):
        jobs = finished.planned()
    assert {job.wildcards.split(",")[1] for job in jobs if "policy=cautious" in job.wildcards} == {
        f" task={task}" for task in ("NumberLine", "EZPoints", "Points24", "Blackjack", "ALFWorld")
    }
    assert all("policy=cautious" in job.wildcards for job in jobs if job.rule not in RESULTS)


def test_how_a_method_looks_reruns_only_tables_and_figures(finished: Workspace) -> None:
    with finished.edited("rl4vlm/config/methods.py", '"#56B4E9"', '"#56B4E8"'):
        jobs = finished.planned()
    assert rules(jobs) == FIGURES | {"tables", "readme_assets"}


def test_a_colour_redraws_only_figures(finished: Workspace) -> None:
    with finished.edited("config/config.yaml", 'RL4VLM: "#0072B2"', 'RL4VLM: "#000000"'):
        jobs = finished.planned()
    assert rules(jobs) == FIGURES | {"readme_assets"}


def test_an_edit_to_one_task_reruns_only_that_tasks_runs(finished: Workspace) -> None:
    with finished.appended("rl4vlm/tasks/blackjack.py"):
        jobs = [job for job in finished.planned() if job.rule not in RESULTS]
    assert rules(jobs) >= {"sft_data", "sft", "ppo", "cnn", "evaluate_scripted", "evaluate_ppo"}
    assert {job.wildcards.split("task=")[1].split(",")[0] for job in jobs} == {"Blackjack"}


def test_an_edit_to_the_command_line_or_to_the_list_of_runs_reruns_nothing(finished: Workspace) -> None:
    with finished.appended("rl4vlm/cli/commands.py"), finished.appended("rl4vlm/config/runs.py"):
        assert finished.planned() == []


def test_the_report_of_finished_results_has_every_table_and_figure(finished: Workspace) -> None:
    done = finished.snakemake(profile="profiles/default")
    assert done.returncode == 0, done.stderr
    page = (finished.folder / "results" / "report.html").read_text()
    for name in [*(f"tables/{table}.csv" for table in ("main", "cot", "perception")), *FIGURES]:
        assert name in page


def test_an_edit_to_the_http_client_reruns_evaluations_over_http(finished: Workspace) -> None:
    with finished.appended("rl4vlm/policies/api/client.py"):
        jobs = finished.planned()
    assert {job.rule for job in jobs if job.rule not in RESULTS} == {"evaluate_over_http"}


@pytest.mark.parametrize(
    ("name", "line"), [("page.css", "/* edited */"), ("page.html", "<!-- edited -->"), ("replay.py", "EDITED = True")]
)
def test_an_edit_to_the_gallery_remakes_only_the_gallery(finished: Workspace, name: str, line: str) -> None:
    with finished.appended(f"rl4vlm/gallery/{name}", line):
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


def test_settings_without_effect_on_results_rerun_nothing(finished: Workspace) -> None:
    saved = "{defaults: {save_every: 2, process_timeout: 100, loggers: [tensorboard], logged_episodes: 2}}"
    jobs = finished.planned("--config", f"ppo={saved}", "sft={defaults: {save_minutes: 9}}")
    # The page names the config, so any other config makes it anew.
    assert rules(jobs) <= {"readme_assets"}
    assert rules(finished.planned("--config", "ppo={defaults: {micro_batch_size: 2}}")) >= {"ppo", "evaluate_ppo"}


GIVEN = """\
tasks: [NumberLine, ALFWorld]
base_model: {defaults: {source: given/base}, per_task: null}
sft_data: {given: {NumberLine-cot: given/shown, NumberLine-nocot: given/file/data.json}}
task_options: {per_task: {ALFWorld: {env: {data: given/games}}}}
over_http: {tasks: []}
"""


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Finished results of a config whose base model, demonstrations and games are folders of the user's."""
    workspace = Workspace(tmp_path_factory.mktemp("given"))
    for name in ("base/config.json", "shown/images/a.png", "shown/data.json", "file/b.png", "games/valid_seen/t.json"):
        file = workspace.folder / "given" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
    (workspace.folder / "given/file/data.json").write_text('[{"image": "b.png"}]')
    (workspace.folder / "given.yaml").write_text(GIVEN)
    workspace.pretend_finished("--configfile", "given.yaml")
    return workspace


@pytest.mark.parametrize(
    ("name", "remade"),
    [
        ("base/config.json", {Job("sft", f"task={task}, style={style}, seed=1")
                              for task in ("NumberLine", "ALFWorld") for style in ("cot", "nocot")}),
        ("shown/images/a.png", {Job("sft", "task=NumberLine, style=cot, seed=1")}),
        ("file/b.png", {Job("sft", "task=NumberLine, style=nocot, seed=1")}),
        ("games/valid_seen/t.json", {Job("sft_data", f"task=ALFWorld, style={style}") for style in ("cot", "nocot")}
                                      | {Job("cnn", "task=ALFWorld, seed=1")}),
    ],
)  # fmt: skip
def test_a_file_overwritten_in_a_given_folder_reruns_what_reads_it(
    given: Workspace, name: str, remade: set[Job]
) -> None:
    """Its folder's modification time stays the same."""
    file = given.folder / "given" / name
    assert given.planned("--configfile", "given.yaml") == []
    text, before = file.read_text(), file.stat()
    file.write_text(f"{text} ")
    jobs = given.planned("--configfile", "given.yaml")
    file.write_text(text)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    # SFT of ALFWorld follows its demonstrations.
    assert {job for job in jobs if job.rule in {one.rule for one in remade}} == remade
