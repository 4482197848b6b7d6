# Baselines. Scripted policies need no training: uniformly random actions, the solver (the best score that a task
# allows) and the dealer's rule in Blackjack. CNN+RL is a small network without language, trained from scratch by PPO.


rule evaluate_scripted:
    """Evaluate a scripted policy on held-out episodes: random, the solver, or stand on 17."""
    input:
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
        policy="|".join(SCRIPTED),
    threads: threads_of("evaluation")
    resources:
        **grant("sft_data"),
    params:
        code=code_of("rl4vlm.evaluation.run", "{task}", "{policy}"),
        given=given_files(task_data),
        out=subpath(output.summary, parent=True),
        state=f"{RESULTS}/state/eval/{{policy}}-{{task}}{{games}}",
        settings=scripted_evaluation,
    shell:
        "rl4vlm evaluate {wildcards.policy:q} {wildcards.task:q} --out {params.out:q} --state {params.state:q}"
        " --set {params.settings:q} 2>&1 | tee {log:q}"


rule cnn:
    """Train CNN+RL, a small network without language, from scratch by PPO."""
    input:
        data=task_data,
    output:
        checkpoint=directory(f"{RESULTS}/cnn/{CNN_NAME}/checkpoint"),
        metrics=f"{RESULTS}/cnn/{CNN_NAME}/metrics.jsonl",
        timing=f"{RESULTS}/cnn/{CNN_NAME}/timing.jsonl",
        record=f"{RESULTS}/cnn/{CNN_NAME}/run.json",
    log:
        f"{RESULTS}/logs/cnn/{CNN_NAME}.log",
    benchmark:
        f"{RESULTS}/benchmarks/cnn/{CNN_NAME}.tsv"
    # This job depends on no other training and takes minutes: start it early, so that it does not run alone at the end.
    priority: 1
    threads: threads_of("cnn")
    resources:
        **grant("cnn"),
    params:
        rl4vlm=stage_command(config, "cnn"),
        code=code_of("rl4vlm.ppo.cnn", "{task}"),
        given=given_files(task_data),
        out=subpath(output.checkpoint, parent=True),
        # Not an output: Snakemake removes outputs before a rerun, but a killed run continues from this folder.
        state=f"{RESULTS}/state/cnn/{CNN_NAME}",
        settings=settings("cnn"),
    shell:
        "{params.rl4vlm:q} cnn --task {wildcards.task:q} --seed {wildcards.seed:q} --out {params.out:q}"
        " --state {params.state:q} --set {params.settings:q} 2>&1 | tee {log:q}"
