"""The jobs that each config asks for, and what a dry run refuses."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from rl4vlm.config.check import checked_config
from rl4vlm.config.load import SCRIPTED_EVALUATION, load_config
from rl4vlm.core.gpus import VISIBLE
from rl4vlm.interaction.options import options_of
from rl4vlm.results.expected import expected_files
from rl4vlm.tasks.registry import task_names
from rl4vlm.training.plan import Rates
from rl4vlm.training.plan import plan as needs_of
from tests.workflow.conftest import Job, Workspace, jobs_of

CARD_TASKS = ("NumberLine", "EZPoints", "Points24", "Blackjack")
# ALFWorld, the fifth, is evaluated on two sets of games.
# The λ of figure 7 beside the default's.
TASKS, STYLES, LAMBDAS = 5, 2, 4
FULL = {
    "sft_data": TASKS * STYLES,
    "sft": TASKS * STYLES,
    "ppo": TASKS * STYLES,
    # random and solver everywhere, and the dealer's rule in Blackjack
    "evaluate_scripted": 2 * (TASKS + 1) + 1,
    "evaluate_sft": (TASKS - 1) * STYLES,
    "evaluate_sft_also_unseen": STYLES,
    "evaluate_ppo": (TASKS - 1) * STYLES,
    "evaluate_ppo_also_unseen": STYLES,
    "cnn": TASKS,
    "evaluate_cnn": TASKS - 1,
    "evaluate_cnn_also_unseen": 1,
    # NumberLine's checkpoint, through a server
    "evaluate_over_http": 1,
    "tables": 1,
    **dict.fromkeys(["training_curves", "cot_ablation", "logprob_balance", "perception"], 1),
    "gallery": 1,
    "readme_assets": 1,
}

MADE = {"alfworld_games": 1, "shipped_model": 2}


@pytest.mark.parametrize(
    ("config", "jobs"),
    [
        ("config.yaml", FULL | MADE),
        # The benchmark's own games, and one model for all tasks.
        (
            "paper.yaml",
            {rule: count for rule, count in FULL.items() if rule != "evaluate_over_http"}
            | {"download": 1}
            | {"ppo": TASKS * STYLES + LAMBDAS, "evaluate_ppo": (TASKS - 1) * STYLES + LAMBDAS, "lambda_ablation": 1}
            # The best policy of every PPO run.
            | {"evaluate_kept": TASKS * STYLES + LAMBDAS},
        ),
        (
            "smoke.yaml",
            FULL
            | {"alfworld_games": 1, "base_model": 2}
            | {"ppo": TASKS * STYLES + 1, "evaluate_ppo": (TASKS - 1) * STYLES + 1, "lambda_ablation": 1},
        ),
    ],
)
def test_jobs_by_rule(plan: Callable[..., str], config: str, jobs: dict[str, int]) -> None:
    overlays = () if config == "config.yaml" else ("--configfile", f"config/{config}")
    assert Counter(job.rule for job in jobs_of(plan(*overlays))) == jobs


@pytest.mark.parametrize("config", ["config.yaml", "smoke.yaml", "ablations.yaml", "points24.yaml"])
def test_what_is_expected_of_a_run_is_what_its_jobs_make(workspace: Workspace, config: str) -> None:
    done = workspace.snakemake("--summary", "--configfile", f"config/{config}")
    made = {Path(line.split("\t")[0]) for line in done.stdout.splitlines()[1:]}
    files = expected_files(load_config([workspace.folder / "config" / name for name in ("config.yaml", config)]))
    # Snakemake writes the report when all jobs are done; checkpoints are folders.
    assert [file.name for file in files if not made & {file, *file.parents}] == ["report.html"]
    shown = {file for file in made if file.parent.name in ("tables", "figures")}
    assert shown <= set(files)


def test_the_table_of_memory_and_hours_counts_the_papers_jobs(workspace: Workspace, plan: Callable[..., str]) -> None:
    config = load_config([workspace.folder / "config" / name for name in ("config.yaml", "paper.yaml")])
    checked = checked_config(config, task_names(), options_of)
    # The smallest known shape, since only jobs are counted.
    lines = needs_of(checked, "SmolVLM2-2.2B", Rates()).splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")][1:]
    counted: Counter[str] = Counter()
    for stage, _, jobs, *_ in cells:
        counted[stage] += int(jobs)
    rules = Counter(job.rule for job in jobs_of(plan("--configfile", "config/paper.yaml")))
    evaluations = sum(count for rule, count in rules.items() if rule.startswith(("evaluate_sft", "evaluate_ppo")))
    stages = {rule: rules[rule] for rule in ("sft_data", "sft", "ppo", "cnn")}
    assert counted == stages | {"evaluation": evaluations, "evaluation of kept policies": rules["evaluate_kept"]}


def test_kept_policies_are_evaluated(workspace: Workspace) -> None:
    keep = "ppo={defaults: {keep_checkpoints: 10}, per_task: {NumberLine: {total_env_steps: 1024, num_steps: 32}}}"
    jobs = workspace.planned(
        "--config", "tasks=[NumberLine]", "styles=[cot]", "seeds=[1]", keep, "ablations={lambda: {NumberLine: [0.5]}}"
    )
    kept = {job.wildcards.rpartition("kept=")[2] for job in jobs if job.rule == "evaluate_kept"}
    assert {"update0010", "update0020", "update0030"} <= kept <= {"update0010", "update0020", "update0030", "best"}


@pytest.mark.parametrize("last", ["a file", "--config"])
@pytest.mark.parametrize("mode", ["default", "remote"])
def test_what_a_config_file_drops_stays_dropped_if_a_later_one_sets_another_part(
    workspace: Workspace, tmp_path: Path, last: str, mode: str
) -> None:
    own = "{per_task: {NumberLine: {gamma: 0.8}}}"
    (tmp_path / "own.yaml").write_text(f"ppo: {own}\n")
    further = [str(tmp_path / "own.yaml")] if last == "a file" else ["--config", f"ppo={own}"]
    # Jobs that run in a Snakemake of their own get these words, too.
    words = ["--mode", mode, "--configfiles", "config/smoke.yaml", *further]
    done = workspace.snakemake("--dry-run", "-p", *words, "--until", "ppo")
    commands = re.findall(r"^Shell command: .*rl4vlm ppo .*$", done.stdout, flags=re.MULTILINE)
    # The embedded scale sets both for single tasks.
    assert {line for line in commands if "--task NumberLine" in line and " gamma=0.8 " not in line} == set()
    assert {word for line in commands for word in re.findall(r"total_env_steps=\d+", line)} == {"total_env_steps=32"}


def test_no_command_names_a_folder_of_this_machine(workspace: Workspace) -> None:
    overlay = str(workspace.folder / "config" / "alfworld.yaml")  # snakemake would write it like this by itself
    done = workspace.snakemake("--dry-run", "--printshellcmds", "--configfile", overlay, "--config", "label=mine")
    commands = re.findall(r"^Shell command: .*$", done.stdout, flags=re.MULTILINE)
    # The page of results says how it was called.
    assert any("""--configfile config/alfworld.yaml --config '"'"'label="mine"'""" in command for command in commands)
    assert not any(str(workspace.folder) in command for command in commands)


def test_every_job_is_one_command_with_a_log_and_a_benchmark(plan: Callable[..., str]) -> None:
    commands = re.findall(r"^Shell command: (?!None)(.*)$", plan(), flags=re.MULTILINE)
    assert len(commands) == sum((FULL | MADE).values())
    for command in commands:
        # Those that may use a GPU, had they asked for one, are started without any.
        command = command.removeprefix("env CUDA_VISIBLE_DEVICES= ")
        assert re.fullmatch(r"rl4vlm [a-z-]+ [^|;&]* 2>&1 \| tee results/logs/\S+\.log", command), command
    # What may come out of a cache has no time of its own to report.
    cached = FULL["sft_data"] + MADE["shipped_model"]
    assert plan().count("    benchmark: results/benchmarks/") == len(commands) - cached


def test_a_variant_has_its_own_settings_and_its_own_warm_start_only_if_it_changes_it(workspace: Workspace) -> None:
    (workspace.folder / "variants.yaml").write_text(
        "tasks: [EZPoints]\nstyles: [cot]\ncnn: null\nover_http: {tasks: []}\n"
        "variants: {drop: {ppo: {defects: {dropout: 0.05}}}, slow: {sft: {learning_rate: 1.0e-6}}}\n"
    )
    done = workspace.snakemake("--dry-run", "-p", "--configfile", "variants.yaml")
    found = re.findall(r"^Shell command: env \S+ rl4vlm (sft|ppo) (.*) 2>&1", done.stdout, flags=re.MULTILINE)
    jobs = [shlex.split(words) for _, words in found]
    commands = {words[words.index("--out") + 1].removeprefix("results/"): set(words) for words in jobs}
    drop, slow = (f"ppo/EZPoints-cot+{name}-lambda0.5-seed1" for name in ("drop", "slow"))
    assert set(commands) == {
        "sft/EZPoints-cot-seed1", "sft/EZPoints-cot+slow-seed1", "ppo/EZPoints-cot-lambda0.5-seed1", drop, slow,
    }  # fmt: skip
    defects = 'defects={"dropout": 0.05, "dropped_tokens": 0, "first_prompt": false, "schedule_steps": 1}'
    assert {"variant=drop", defects, "results/sft/EZPoints-cot-seed1/checkpoint"} <= commands[drop]
    assert {"variant=slow", "results/sft/EZPoints-cot+slow-seed1/checkpoint"} <= commands[slow]
    assert {"variant=slow", "learning_rate=1e-06"} <= commands["sft/EZPoints-cot+slow-seed1"]
    (tables,), (gallery,) = (
        re.findall(rf"rl4vlm {shown} .* --evaluations (.*)", done.stdout) for shown in ("tables", "gallery")
    )
    assert {"sft-EZPoints-cot+slow-seed1", f"ppo-{drop.removeprefix('ppo/')}"} <= set(shlex.split(tables))
    assert "+" not in gallery


def test_jobs_carry_their_resources(plan: Callable[..., str]) -> None:
    shown = plan("--configfile", "config/paper.yaml")
    (resources,) = {
        line.split(": ", 1)[1]
        for block in re.findall(r"^rule ppo:\n((?: {4}.*\n)*)", shown, flags=re.MULTILINE)
        for line in block.splitlines()
        if line.startswith("    resources:")
    }
    assert {"gpu=1", "mem_mb=128000", "runtime=7200"} <= set(resources.split(", "))


def test_as_many_jobs_with_a_gpu_run_at_a_time_as_there_are_visible_gpus_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = Workspace(tmp_path)
    monkeypatch.setenv(VISIBLE, "0,1,2,3,4,5,6,7")
    for words, gpus in ((), 8), (("--resources", "gpu=3"), 3):
        # A dry run does not print what is provided. To touch an output that does not exist starts no job either.
        done = space.snakemake("results/base_model/cards", "--touch", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        # Snakemake prints `gpu=8` or `gpu=Resource("gpu", 8)`.
        provided = re.findall(r"^Provided resources: .*\bgpu=\D*(\d+)", done.stdout + done.stderr, flags=re.MULTILINE)
        assert provided == [str(gpus)]


def test_the_papers_jobs(workspace: Workspace, plan: Callable[..., str]) -> None:
    """One dry run at the paper's scale: nothing to start from is missing, and what is trained is the paper's."""
    shown = plan("--configfile", "config/paper.yaml")
    blocks = re.findall(r"^(?:local)?rule (\w+):\n((?: {4}.*\n)*)(?:Shell command: (.*))?", shown, flags=re.MULTILINE)
    gpus = {rule: set(re.findall(r"gpu=(\d)", details)) for rule, details, _ in blocks}
    assert all(gpus[rule] == {"1"} for rule in ("sft", "ppo", "evaluate_sft", "evaluate_ppo"))
    assert all(gpus[rule] == {"0"} for rule in ("sft_data", "evaluate_scripted", "tables", "training_curves"))
    rules = ("download", "sft", "ppo", "evaluate_sft", "evaluate_ppo")
    # The CNN is trained on CPU cores, and leaves the GPUs to the others.
    (hidden,) = {command.partition(" rl4vlm ")[0] for rule, _, command in blocks if rule == "cnn"}
    assert (gpus["cnn"], hidden) == ({"0"}, "env CUDA_VISIBLE_DEVICES=")
    commands = {rule: [command for found, _, command in blocks if found == rule] for rule in rules}
    assert "llava-hf/llava-v1.6-mistral-7b-hf" in commands["download"][0]
    for rule in rules[1:]:
        # It claims a GPU, which is then the first that the job sees.
        assert all(command.startswith("python -m rl4vlm.core.gpus 1 rl4vlm ") for command in commands[rule])
    assert len(commands["sft"]) == TASKS * STYLES
    for command in commands["sft"]:
        assert "--init results/paper/base_model/llava-hf--llava-v1.6-mistral-7b-hf@52320fb" in command
        assert {"batch_size=64", "one_view=true", "lora=null", "dtype=bfloat16"} <= set(command.split())
    assert len(commands["ppo"]) == TASKS * STYLES + LAMBDAS
    (household,) = {command for command in commands["ppo"] if "--task ALFWorld --style cot" in command}
    assert {"total_env_steps=5120", "num_envs=1", "thought_prob_coef=0.2"} <= set(household.split())
    # The folder is what ALFWORLD_DATA names when the job runs.
    assert '\'env={"backend": "thor", "data": null, "skip_bad_games": true, "split": "train"}\'' in household
    for command in commands["ppo"]:
        assert re.search(r"--init results/paper/sft/\w+-(no)?cot-seed1/checkpoint ", command)
        assert '\'lora={"alpha": 256.0, "rank": 128, "targets": "all-linear"}\'' in command
        assert {"ent_coef=0.0", "max_grad_norm=null"} <= set(command.split())
        assert "--task ALFWorld" in command or "total_env_steps=30000" in command.split()
    assert not (workspace.folder / "results").exists()


def test_a_misspelt_setting_stops_a_dry_run_and_is_named(workspace: Workspace) -> None:
    done = workspace.snakemake("--dry-run", "--config", "ppo={'defaults': {'lerning_rate': 1}}")
    assert done.returncode != 0
    assert "config, ppo.defaults: unknown setting 'lerning_rate'; did you mean learning_rate" in done.stdout
    assert len(done.stdout.splitlines()) < 20


def test_an_unknown_task_stops_a_dry_run_and_is_named(workspace: Workspace) -> None:
    done = workspace.snakemake("--dry-run", "--config", "tasks=[NumberLime]")
    assert done.returncode != 0
    assert "config, tasks: unknown task 'NumberLime'; did you mean NumberLine?" in done.stdout


def test_overlays_stack_over_the_papers_scale(workspace: Workspace) -> None:
    done = workspace.snakemake("-n", "-p", "--configfile", "config/paper.yaml", "config/paper-fast.yaml")
    prefix = r"^Shell command: python -m rl4vlm\.core\.gpus 1 rl4vlm ppo (.*)$"
    commands = re.findall(prefix, done.stdout, flags=re.MULTILINE)
    assert len(commands) == TASKS * STYLES + LAMBDAS
    for command in commands:
        assert {f"num_envs={16 if 'ALFWorld' in command else 64}", "clip_range=0.1"} <= set(command.split())
        assert "--out results/paper-fast/ppo/" in command


def test_an_unknown_scale_stops_a_dry_run_and_is_named(workspace: Workspace) -> None:
    done = workspace.snakemake("--dry-run", "--config", "scale=papr")
    assert done.returncode != 0
    assert "config, scale: config/scales has no scale 'papr'; did you mean paper?" in done.stdout


def test_a_dry_run_with_the_default_profile_writes_no_report(workspace: Workspace) -> None:
    done = workspace.snakemake("--dry-run", profile="profiles/default")
    assert done.returncode == 0, done.stderr
    assert not (workspace.folder / "results").exists()


def test_it_also_runs_from_the_catalogs_place(workspace: Workspace) -> None:
    done = workspace.snakemake("--dry-run", "--snakefile", "workflow/Snakefile")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^all +1$", done.stdout, flags=re.MULTILINE)


def test_without_git_the_archives_place_in_the_dag_is_known_all_the_same(workspace: Workspace) -> None:
    """The page of the rules and the graph, made from a source archive; the job itself says that git is missing."""
    assert Job("archive") in workspace.planned("archive")


def test_given_demonstrations_take_the_place_of_made_ones(workspace: Workspace) -> None:
    (workspace.folder / "published.json").write_text("[]")
    jobs = workspace.planned("--config", "sft_data={'given': {'NumberLine-cot': 'published.json'}}")
    made = {job.wildcards for job in jobs if job.rule == "sft_data"}
    assert len(made) == TASKS * STYLES - 1
    assert "task=NumberLine, style=cot" not in made
    assert "task=NumberLine, style=nocot" in made


def test_what_an_earlier_base_model_read_is_no_result_of_another(workspace: Workspace) -> None:
    (workspace.folder / "hub.yaml").write_text(
        "base_model: {defaults: {source: someone/some-model}, per_task: null}\n", encoding="utf-8"
    )
    done = workspace.snakemake("--dry-run", "-p", "--configfile", "hub.yaml")
    assert "rl4vlm tables" in done.stdout
    assert "perception.json" not in done.stdout


def test_the_base_models_perception_is_named_where_it_is_made(plan: Callable[..., str]) -> None:
    commands = re.findall(r"^Shell command: (rl4vlm (?:tables|figure perception) .*)$", plan(), flags=re.MULTILINE)
    assert len(commands) == 2
    files = dict.fromkeys(CARD_TASKS, "cards") | {"ALFWorld": "alfworld"}
    words = [f"{task}=results/base_model/{name}/perception.json" for task, name in files.items()]
    read = "--base-perceptions " + " ".join(words)
    assert all(f"{read} --out" in command for command in commands)


def test_the_cnn_is_evaluated_like_the_others_but_at_its_own_temperature(plan: Callable[..., str]) -> None:
    command = r"^Shell command: env \S+ rl4vlm evaluate results/cnn/(\S+) .* --set (.*) 2>&1"
    found = re.findall(command, plan(), re.MULTILINE)
    settings = {run: dict(word.partition("=")[::2] for word in shlex.split(words)) for run, words in found}
    assert set(settings) == {f"{task}-seed1/checkpoint" for task in (*CARD_TASKS, "ALFWorld")}
    hands = settings["Blackjack-seed1/checkpoint"]
    assert (hands["episodes"], hands["seed_base"], hands["temperature"]) == ("4000", "2000000000", "1.0")


def test_a_scripted_policy_gets_no_settings_of_models(plan: Callable[..., str]) -> None:
    found = re.findall(r"^Shell command: rl4vlm evaluate random \S+ .* --set (.*) 2>&1", plan(), re.MULTILINE)
    names = {word.partition("=")[0] for words in found for word in shlex.split(words)}
    assert names == {*SCRIPTED_EVALUATION}


def test_a_task_can_be_left_out_of_the_cnn(workspace: Workspace) -> None:
    jobs = workspace.planned("--config", "cnn={'skip': ['Points24']}")
    trained = {job.wildcards for job in jobs if job.rule == "cnn"}
    assert trained == {f"task={task}, seed=1" for task in ("NumberLine", "EZPoints", "Blackjack", "ALFWorld")}
    assert Counter(job.rule for job in jobs)["evaluate_cnn"] == TASKS - 2


def test_the_shipped_models_are_copied(plan: Callable[..., str]) -> None:
    for name in ("cards", "alfworld"):
        assert f"--out results/base_model/{name} --copy workflow/resources/base_model/{name}" in plan()


def test_a_task_may_start_from_a_model_of_its_own(workspace: Workspace) -> None:
    (workspace.folder / "own.yaml").write_text(
        "base_model:\n  per_task:\n"
        "    Blackjack: {name: hands, source: pretrain, settings: {pretrain_tasks: [Blackjack]}}\n"
        "    Points24: {source: someone/some-model, revision: v1}\n"
    )
    done = workspace.snakemake("--dry-run", "-p", "--configfile", "own.yaml")
    made = re.findall(r"^Shell command: .*rl4vlm base-model --out results/base_model/(\S+) --(\S+)", done.stdout, re.M)
    own = {("cards", "copy"), ("hands", "state"), ("someone--some-model@v1", "download")}
    assert {pair for pair in made if pair[0] != "alfworld"} == own
    starts = dict(re.findall(r"--data results/sft_data/(\w+)-cot --init results/base_model/(\S+)", done.stdout))
    assert starts == {
        "ALFWorld": "alfworld",
        "NumberLine": "cards",
        "EZPoints": "cards",
        "Points24": "someone--some-model@v1",
        "Blackjack": "hands",
    }
    read = re.search(r"rl4vlm tables .* --base-perceptions (.*) --out", done.stdout)
    assert read
    assert dict(word.split("=") for word in read[1].split()) == {
        "ALFWorld": "results/base_model/alfworld/perception.json",
        "NumberLine": "results/base_model/cards/perception.json",
        "EZPoints": "results/base_model/cards/perception.json",
        "Blackjack": "results/base_model/hands/perception.json",
    }
