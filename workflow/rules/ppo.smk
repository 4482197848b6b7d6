# PPO fine-tuning: the method of the paper.


rule ppo:
    """Fine-tune an SFT checkpoint by PPO: one run per task, style, lambda (`thought_prob_coef`) and seed."""
    input:
        init=warm_start_of,
        data=task_data,
    output:
        **({"kept": directory(f"{RESULTS}/ppo/{PPO_NAME}/checkpoints")} if KEPT_EVALUATIONS else {}),
        checkpoint=directory(f"{RESULTS}/ppo/{PPO_NAME}/checkpoint"),
        metrics=f"{RESULTS}/ppo/{PPO_NAME}/metrics.jsonl",
        timing=f"{RESULTS}/ppo/{PPO_NAME}/timing.jsonl",
        record=f"{RESULTS}/ppo/{PPO_NAME}/run.json",
    log:
        f"{RESULTS}/logs/ppo/{PPO_NAME}.log",
    benchmark:
        f"{RESULTS}/benchmarks/ppo/{PPO_NAME}.tsv"
    # The longest jobs: start them first, so that only short jobs are left at the end.
    priority: 2
    threads: threads_of("ppo")
    resources:
        **grant("ppo"),
    params:
        rl4vlm=stage_command(config, "ppo"),
        code=code_of("rl4vlm.ppo.train", "{task}"),
        given=given_files(task_data),
        out=subpath(output.checkpoint, parent=True),
        # Not an output: Snakemake removes outputs before a rerun, but a killed run continues from this folder.
        state=f"{RESULTS}/state/ppo/{PPO_NAME}",
        settings=settings("ppo", but=["thought_prob_coef"]),
    shell:
        "{params.rl4vlm:q} ppo --task {wildcards.task:q} --style {wildcards.style:q} --init {input.init:q}"
        " --seed {wildcards.seed:q} --out {params.out:q} --state {params.state:q}"
        " --set {params.settings:q} thought_prob_coef={wildcards.lam:q} 2>&1 | tee {log:q}"
