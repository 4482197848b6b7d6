# Held-out evaluation of every trained checkpoint of a vision-language model.


rule evaluate_sft:
    """Evaluate a trained checkpoint on held-out episodes, with seeds that no training used."""
    input:
        checkpoint=rules.sft.output.checkpoint,
        data=task_data,
    output:
        episodes=f"{RESULTS}/eval/sft-{SFT_RUN}{{games}}/episodes.jsonl",
        summary=f"{RESULTS}/eval/sft-{SFT_RUN}{{games}}/summary.json",
        record=f"{RESULTS}/eval/sft-{SFT_RUN}{{games}}/run.json",
    log:
        f"{RESULTS}/logs/eval/sft-{SFT_RUN}{{games}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/eval/sft-{SFT_RUN}{{games}}.tsv"
    threads: threads_of("evaluation")
    resources:
        **grant("evaluation"),
    params:
        code=code_of("rl4vlm.evaluation.run", "{task}", "vlm"),
        out=subpath(output.summary, parent=True),
        settings=evaluation_arguments,
    shell:
        "rl4vlm evaluate {input.checkpoint:q} {wildcards.task:q} --style {wildcards.style:q} --out {params.out:q}"
        " --set {params.settings:q} 2>&1 | tee {log:q}"


use rule evaluate_sft as evaluate_ppo with:
    input:
        checkpoint=rules.ppo.output.checkpoint,
        data=task_data,
    output:
        episodes=f"{RESULTS}/eval/ppo-{PPO_RUN}{{games}}/episodes.jsonl",
        summary=f"{RESULTS}/eval/ppo-{PPO_RUN}{{games}}/summary.json",
        record=f"{RESULTS}/eval/ppo-{PPO_RUN}{{games}}/run.json",
    log:
        f"{RESULTS}/logs/eval/ppo-{PPO_RUN}{{games}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/eval/ppo-{PPO_RUN}{{games}}.tsv"


rule evaluate_kept:
    """Evaluate a policy that a PPO run kept beside its last one, on the task's first set of games."""
    input:
        checkpoints=f"{RESULTS}/ppo/{PPO_RUN}/checkpoints",
        data=task_data,
    output:
        episodes=f"{RESULTS}/eval_kept/ppo-{PPO_RUN}/{{kept}}/episodes.jsonl",
        summary=f"{RESULTS}/eval_kept/ppo-{PPO_RUN}/{{kept}}/summary.json",
        record=f"{RESULTS}/eval_kept/ppo-{PPO_RUN}/{{kept}}/run.json",
    log:
        f"{RESULTS}/logs/eval_kept/ppo-{PPO_RUN}/{{kept}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/eval_kept/ppo-{PPO_RUN}/{{kept}}.tsv"
    threads: threads_of("evaluation")
    resources:
        **grant("evaluation"),
    params:
        code=code_of("rl4vlm.evaluation.run", "{task}", "vlm"),
        out=subpath(output.summary, parent=True),
        settings=lambda wildcards: evaluation(evaluation_settings(config, wildcards.task)),
    shell:
        "rl4vlm evaluate {input.checkpoints:q}/{wildcards.kept:q} {wildcards.task:q} --style {wildcards.style:q}"
        " --out {params.out:q} --set {params.settings:q} 2>&1 | tee {log:q}"
