# Held-out evaluation over HTTP: of a checkpoint trained here, through a server on this machine, and of models elsewhere.


rule evaluate_over_http:
    """Held-out episodes with a checkpoint that is asked over HTTP, through a server on this machine."""
    input:
        checkpoint=rules.ppo.output.checkpoint,
        sources=watched("rl4vlm.evaluation.run", "{task}", "served"),
        data=task_data,
    output:
        episodes=f"{RESULTS}/eval/http-{PPO_RUN}/episodes.jsonl",
        summary=f"{RESULTS}/eval/http-{PPO_RUN}/summary.json",
        record=f"{RESULTS}/eval/http-{PPO_RUN}/run.json",
    log:
        f"{RESULTS}/logs/eval/http-{PPO_RUN}.log",
    benchmark:
        f"{RESULTS}/benchmarks/eval/http-{PPO_RUN}.tsv"
    threads: threads_of("evaluation")
    resources:
        **grant("evaluation"),
    params:
        out=subpath(output.summary, parent=True),
        settings=lambda wildcards: evaluation(http_settings(config, wildcards.task)),
    shell:
        "rl4vlm evaluate served:{input.checkpoint} {wildcards.task} --style {wildcards.style} --out {params.out}"
        " --set {params.settings} 2>&1 | tee {log}"


# A replay of what was answered before costs nothing and needs no key; see docs/api-models.md.
rule evaluate_api:
    """Held-out episodes with a model behind someone's endpoint (`api_models`)."""
    input:
        sources=watched("rl4vlm.evaluation.run", "{task}", "api"),
        data=task_data,
    output:
        episodes=f"{RESULTS}/eval/api-{{model}}-{{task}}{{games}}/episodes.jsonl",
        summary=f"{RESULTS}/eval/api-{{model}}-{{task}}{{games}}/summary.json",
        record=f"{RESULTS}/eval/api-{{model}}-{{task}}{{games}}/run.json",
    log:
        f"{RESULTS}/logs/eval/api-{{model}}-{{task}}{{games}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/eval/api-{{model}}-{{task}}{{games}}.tsv"
    wildcard_constraints:
        model="[A-Za-z0-9_.-]+",
    threads: threads_of("api")
    resources:
        **grant("api"),
    params:
        out=subpath(output.summary, parent=True),
        style=lambda wildcards: api_style(config, wildcards.model),
        settings=lambda wildcards: evaluation(
            api_settings(config, wildcards.model, wildcards.task, wildcards.games[1:])
        ),
    shell:
        "rl4vlm evaluate api:{wildcards.model} {wildcards.task} --style {params.style} --out {params.out}"
        " --set {params.settings} 2>&1 | tee {log}"
