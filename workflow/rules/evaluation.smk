# Held-out evaluation of every trained checkpoint.

# By kind of checkpoint: the wildcards of its run, its folder, its policy, and the entry of `resources` for its
# evaluation.
TRAINED = {
    "sft": (SFT_NAME, rules.sft.output.checkpoint, "vlm", "evaluation"),
    "ppo": (PPO_NAME, rules.ppo.output.checkpoint, "vlm", "evaluation"),
    "cnn": (CNN_NAME, rules.cnn.output.checkpoint, "cnn", "cnn"),
}
# The tasks, grouped by their sets of games after the first (`evaluation.sets` in the config). One process plays all
# sets, so that it loads the checkpoint once. The sets decide which files there are, so each group needs its own rule.
FURTHER_SETS = {}
for TASK in config["tasks"]:
    FURTHER_SETS.setdefault(tuple(evaluation_sets(config, TASK))[1:], []).append(TASK)

for KIND, (RUN, CHECKPOINT, POLICY, STAGE) in TRAINED.items():
    for FURTHER, TASKS in FURTHER_SETS.items():

        rule:
            """Evaluate a trained checkpoint on held-out episodes, with seeds that no training used."""
            name:
                "_".join(["evaluate", KIND, *(["also", *FURTHER] if FURTHER else [])])
            input:
                checkpoint=CHECKPOINT,
                data=task_data,
            output:
                [
                    f"{RESULTS}/eval/{name_on(f'{KIND}-{RUN}', games)}/{file}"
                    for games in FURTHER
                    for file in ("episodes.jsonl", "summary.json", "run.json")
                ],
                episodes=f"{RESULTS}/eval/{KIND}-{RUN}/episodes.jsonl",
                summary=f"{RESULTS}/eval/{KIND}-{RUN}/summary.json",
                record=f"{RESULTS}/eval/{KIND}-{RUN}/run.json",
            log:
                f"{RESULTS}/logs/eval/{KIND}-{RUN}.log",
            benchmark:
                f"{RESULTS}/benchmarks/eval/{KIND}-{RUN}.tsv"
            wildcard_constraints:
                task="|".join(map(re.escape, TASKS)),
            threads: threads_of(STAGE)
            resources:
                **grant(STAGE),
            params:
                code=code_of("rl4vlm.evaluation.run", "{task}", POLICY),
                given=given_files(task_data),
                out=subpath(output.summary, parent=True),
                # Not an output: Snakemake removes outputs before a rerun, but a killed run continues from this folder.
                state=f"{RESULTS}/state/eval/{KIND}-{RUN}",
                style=lambda wildcards: wildcards.get("style", Style.ACTION_ONLY.value),
                settings=checkpoint_evaluation(KIND, FURTHER),
                rl4vlm=stage_command(config, STAGE),
            shell:
                "{params.rl4vlm:q} evaluate {input.checkpoint:q} {wildcards.task:q} --style {params.style:q}"
                " --out {params.out:q} --state {params.state:q} --set {params.settings:q} 2>&1 | tee {log:q}"


KEPT = KEPT_NAME.format(run=PPO_NAME, kept="{kept}")


rule evaluate_kept:
    """Evaluate an intermediate policy that a PPO run kept, on the task's first set of games."""
    input:
        checkpoints=f"{RESULTS}/ppo/{PPO_NAME}/checkpoints",
        data=task_data,
    output:
        episodes=f"{RESULTS}/{KEPT}/episodes.jsonl",
        summary=f"{RESULTS}/{KEPT}/summary.json",
        record=f"{RESULTS}/{KEPT}/run.json",
    log:
        f"{RESULTS}/logs/{KEPT}.log",
    benchmark:
        f"{RESULTS}/benchmarks/{KEPT}.tsv"
    threads: threads_of("evaluation")
    resources:
        **grant("evaluation"),
    params:
        code=code_of("rl4vlm.evaluation.run", "{task}", "vlm"),
        given=given_files(task_data),
        out=subpath(output.summary, parent=True),
        state=f"{RESULTS}/state/{KEPT}",
        settings=lambda wildcards: evaluation(
            evaluation_settings(config, wildcards.task, variant=variant_of(wildcards))
        ),
        rl4vlm=stage_command(config, "evaluation"),
    shell:
        "{params.rl4vlm:q} evaluate {input.checkpoints:q}/{wildcards.kept:q} {wildcards.task:q} --style {wildcards.style:q}"
        " --out {params.out:q} --state {params.state:q} --set {params.settings:q} 2>&1 | tee {log:q}"
