# Held-out evaluation over HTTP: of a checkpoint trained here, served on this machine, and of models elsewhere.


rule evaluate_over_http:
    """Evaluate a PPO checkpoint on held-out episodes over HTTP, through a server on this machine."""
    input:
        checkpoint=rules.ppo.output.checkpoint,
        data=task_data,
    output:
        episodes=f"{RESULTS}/eval/http-{PPO_NAME}/episodes.jsonl",
        summary=f"{RESULTS}/eval/http-{PPO_NAME}/summary.json",
        record=f"{RESULTS}/eval/http-{PPO_NAME}/run.json",
    log:
        f"{RESULTS}/logs/eval/http-{PPO_NAME}.log",
    benchmark:
        f"{RESULTS}/benchmarks/eval/http-{PPO_NAME}.tsv"
    threads: threads_of("evaluation")
    resources:
        **grant("evaluation"),
    params:
        rl4vlm=stage_command(config, "evaluation"),
        code=code_of("rl4vlm.evaluation.run", "{task}", "served"),
        given=given_files(task_data),
        out=subpath(output.summary, parent=True),
        settings=lambda wildcards: evaluation(http_settings(config, wildcards.task)),
    shell:
        "{params.rl4vlm:q} evaluate served:{input.checkpoint:q} {wildcards.task:q} --style {wildcards.style:q}"
        " --out {params.out:q} --set {params.settings:q} 2>&1 | tee {log:q}"


# Replies are cached: evaluating the same model again costs nothing and needs no key (docs/api-models.md).
rule evaluate_api:
    """Evaluate a model behind an API endpoint (`api_models` in the config) on held-out episodes."""
    input:
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
        code=code_of("rl4vlm.evaluation.run", "{task}", "api"),
        given=given_files(task_data),
        out=subpath(output.summary, parent=True),
        style=lambda wildcards: api_style(config, wildcards.model),
        settings=lambda wildcards: evaluation(
            api_settings(config, wildcards.model, wildcards.task, wildcards.games.removeprefix(GAMES_MARK))
        ),
    shell:
        "rl4vlm evaluate api:{wildcards.model:q} {wildcards.task:q} --style {params.style:q} --out {params.out:q}"
        " --set {params.settings:q} 2>&1 | tee {log:q}"
