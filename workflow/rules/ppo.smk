# PPO fine-tuning, one run a task, style, thought weight (lambda) and seed.


rule ppo:
    """Fine-tune a warm start by playing: one run a task, style, thought weight (lambda) and seed."""
    input:
        init=rules.sft.output.checkpoint,
        sources=watched("rl4vlm.ppo.train", "{task}"),
        data=task_data,
    output:
        checkpoint=directory(f"{RESULTS}/ppo/{PPO_RUN}/checkpoint"),
        metrics=f"{RESULTS}/ppo/{PPO_RUN}/metrics.jsonl",
        timing=f"{RESULTS}/ppo/{PPO_RUN}/timing.jsonl",
        record=f"{RESULTS}/ppo/{PPO_RUN}/run.json",
    log:
        f"{RESULTS}/logs/ppo/{PPO_RUN}.log",
    benchmark:
        f"{RESULTS}/benchmarks/ppo/{PPO_RUN}.tsv"
    # The longest jobs: what is left at the end should be short.
    priority: 2
    threads: threads_of("ppo")
    resources:
        **grant("ppo"),
    params:
        rl4vlm=training_command(config, "ppo"),
        out=subpath(output.checkpoint, parent=True),
        # No output: Snakemake removes those before a rerun, and a killed run goes on from here.
        state=f"{RESULTS}/state/ppo/{PPO_RUN}",
        settings=settings("ppo", but=["thought_prob_coef"]),
    shell:
        "{params.rl4vlm} ppo --task {wildcards.task} --style {wildcards.style} --init {input.init}"
        " --seed {wildcards.seed} --out {params.out} --state {params.state}"
        " --set {params.settings} thought_prob_coef={wildcards.lam} 2>&1 | tee {log}"
