# Supervised fine-tuning: the warm start of PPO.


rule sft:
    """Fine-tune the base model on demonstrations: one run per task, style and seed."""
    input:
        data=demonstrations_of,
        init=base_of,
    output:
        checkpoint=directory(f"{RESULTS}/sft/{SFT_NAME}/checkpoint"),
        metrics=f"{RESULTS}/sft/{SFT_NAME}/metrics.jsonl",
        record=f"{RESULTS}/sft/{SFT_NAME}/run.json",
    log:
        f"{RESULTS}/logs/sft/{SFT_NAME}.log",
    benchmark:
        f"{RESULTS}/benchmarks/sft/{SFT_NAME}.tsv"
    # PPO waits for this job: run it before any evaluation.
    priority: 1
    threads: threads_of("sft")
    resources:
        **grant("sft"),
    params:
        rl4vlm=stage_command(config, "sft"),
        code=code_of("rl4vlm.sft.train", "{task}"),
        given=given_files(demonstrations_of, base_of),
        out=subpath(output.checkpoint, parent=True),
        # Not an output: Snakemake removes outputs before a rerun, but a killed run continues from this folder.
        state=f"{RESULTS}/state/sft/{SFT_NAME}",
        init=base_of,
        settings=settings("sft", but=["seed"]),
    shell:
        "{params.rl4vlm:q} sft --data {input.data:q} --init {params.init:q} --out {params.out:q}"
        " --state {params.state:q} --set {params.settings:q} seed={wildcards.seed} 2>&1 | tee {log:q}"
