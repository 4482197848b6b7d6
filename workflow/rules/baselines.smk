# What the method is compared to: players that nothing is trained for (uniformly random play, and the solver, the task's
# ceiling), and CNN+RL, a small network without language that PPO trains from scratch.


rule evaluate_scripted:
    """Held-out episodes with players that nothing is trained for: random, the solver, stand on 17."""
    input:
        sources=watched("rl4vlm.evaluation.run", "{task}", "{policy}"),
        data=task_data,
    output:
        episodes=f"{RESULTS}/eval/{{policy}}-{{task}}{{games}}/episodes.jsonl",
        summary=f"{RESULTS}/eval/{{policy}}-{{task}}{{games}}/summary.json",
        record=f"{RESULTS}/eval/{{policy}}-{{task}}{{games}}/run.json",
    log:
        f"{RESULTS}/logs/eval/{{policy}}-{{task}}{{games}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/eval/{{policy}}-{{task}}{{games}}.tsv"
    wildcard_constraints:
        policy="random|solver|stand17",
    threads: threads_of("evaluation")
    resources:
        **grant("sft_data"),
    params:
        out=subpath(output.summary, parent=True),
        settings=evaluation_arguments,
    shell:
        "rl4vlm evaluate {wildcards.policy} {wildcards.task} --out {params.out}"
        " --set {params.settings} 2>&1 | tee {log}"


rule cnn:
    """Train CNN+RL, a small network without language, from scratch by PPO."""
    input:
        sources=watched("rl4vlm.ppo.cnn", "{task}"),
        data=task_data,
    output:
        checkpoint=directory(f"{RESULTS}/cnn/{CNN_RUN}/checkpoint"),
        metrics=f"{RESULTS}/cnn/{CNN_RUN}/metrics.jsonl",
        timing=f"{RESULTS}/cnn/{CNN_RUN}/timing.jsonl",
        record=f"{RESULTS}/cnn/{CNN_RUN}/run.json",
    log:
        f"{RESULTS}/logs/cnn/{CNN_RUN}.log",
    benchmark:
        f"{RESULTS}/benchmarks/cnn/{CNN_RUN}.tsv"
    # Needs nothing and takes minutes: not what a run should end with.
    priority: 1
    threads: threads_of("cnn")
    resources:
        **grant("cnn"),
    params:
        out=subpath(output.checkpoint, parent=True),
        # As for PPO: a killed run goes on from here.
        state=f"{RESULTS}/state/cnn/{CNN_RUN}",
        settings=settings("cnn"),
    shell:
        "rl4vlm cnn --task {wildcards.task} --seed {wildcards.seed} --out {params.out}"
        " --state {params.state} --set {params.settings} 2>&1 | tee {log}"


rule evaluate_cnn:
    """Held-out episodes with a CNN+RL policy."""
    input:
        checkpoint=rules.cnn.output.checkpoint,
        sources=watched("rl4vlm.evaluation.run", "{task}", "cnn"),
        data=task_data,
    output:
        episodes=f"{RESULTS}/eval/cnn-{CNN_RUN}{{games}}/episodes.jsonl",
        summary=f"{RESULTS}/eval/cnn-{CNN_RUN}{{games}}/summary.json",
        record=f"{RESULTS}/eval/cnn-{CNN_RUN}{{games}}/run.json",
    log:
        f"{RESULTS}/logs/eval/cnn-{CNN_RUN}{{games}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/eval/cnn-{CNN_RUN}{{games}}.tsv"
    threads: threads_of("cnn")
    resources:
        **grant("cnn"),
    params:
        out=subpath(output.summary, parent=True),
        settings=lambda wildcards: evaluation(
            cnn_evaluation_settings(config, wildcards.task, wildcards.games[1:]), only=[*CNN_EVALUATION, "temperature"]
        ),
    shell:
        "rl4vlm evaluate {input.checkpoint} {wildcards.task} --style nocot --out {params.out}"
        " --set {params.settings} 2>&1 | tee {log}"
