# The supervised warm start, one a task and style.


rule sft:
    """Fine-tune the base model on demonstrations: the warm start of a task and style."""
    input:
        data=lambda wildcards: config["sft_data"]["given"].get(
            f"{wildcards.task}-{wildcards.style}", f"{RESULTS}/sft_data/{wildcards.task}-{wildcards.style}"
        ),
        init=base_of,
        sources=watched("rl4vlm.sft.train", "{task}"),
    output:
        checkpoint=directory(f"{RESULTS}/sft/{{task}}-{{style}}/checkpoint"),
        metrics=f"{RESULTS}/sft/{{task}}-{{style}}/metrics.jsonl",
        record=f"{RESULTS}/sft/{{task}}-{{style}}/run.json",
    log:
        f"{RESULTS}/logs/sft/{{task}}-{{style}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/sft/{{task}}-{{style}}.tsv"
    # Before any evaluation: PPO waits for it.
    priority: 1
    threads: threads_of("sft")
    resources:
        **grant("sft"),
    params:
        rl4vlm=training_command(config, "sft"),
        out=subpath(output.checkpoint, parent=True),
        # No output: Snakemake removes those before a rerun, and a killed run goes on from here.
        state=f"{RESULTS}/state/sft/{{task}}-{{style}}",
        init=base_of,
        settings=settings("sft"),
    shell:
        "{params.rl4vlm} sft --data {input.data} --init {params.init} --out {params.out}"
        " --state {params.state} --set {params.settings} 2>&1 | tee {log}"
