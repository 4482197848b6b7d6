# Reference lines that nothing is trained for: uniformly random play and the solver, the task's ceiling.


rule evaluate_scripted:
    input:
        sources=watched("rl4vlm.evaluation.run", "{task}", "{policy}"),
    output:
        episodes=f"{RESULTS}/eval/{{policy}}-{{task}}/episodes.jsonl",
        summary=f"{RESULTS}/eval/{{policy}}-{{task}}/summary.json",
        record=f"{RESULTS}/eval/{{policy}}-{{task}}/run.json",
    log:
        f"{RESULTS}/logs/eval/{{policy}}-{{task}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/eval/{{policy}}-{{task}}.tsv"
    wildcard_constraints:
        policy="random|solver|stand17",
    threads: threads_of("evaluation")
    resources:
        **grant("sft_data"),
    params:
        out=subpath(output.summary, parent=True),
        settings=settings("evaluation"),
    shell:
        "rl4vlm evaluate {wildcards.policy} {wildcards.task} --out {params.out}"
        " --set {params.settings} 2>&1 | tee {log}"
