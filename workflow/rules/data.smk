# The base model that everything starts from, and the demonstrations that SFT imitates.

if BASE_SOURCE == "pretrain":

    rule base_model:
        input:
            sources=stage_sources("rl4vlm.models.pretrain", config["base_model"]["settings"]["tasks"]),
            data=[folder for task in config["base_model"]["settings"]["tasks"] for folder in data_of(task)],
        output:
            directory(BASE_MODEL),
        log:
            f"{RESULTS}/logs/base_model.log",
        benchmark:
            f"{RESULTS}/benchmarks/base_model.tsv"
        threads: threads_of("base_model")
        resources:
            **grant("base_model"),
        params:
            settings=settings_arguments(base_model_settings(config)),
        shell:
            "rl4vlm base-model --out {output} --set {params.settings} 2>&1 | tee {log}"

elif BASE_SOURCE == "shipped":

    rule base_model:
        input:
            weights=sorted(str(path) for path in Path(SHIPPED).iterdir()),
        output:
            directory(BASE_MODEL),
        log:
            f"{RESULTS}/logs/base_model.log",
        benchmark:
            f"{RESULTS}/benchmarks/base_model.tsv"
        resources:
            **grant("sft_data"),
        params:
            source=lambda wildcards, input: str(Path(input.weights[0]).parent),
        shell:
            "rl4vlm base-model --out {output} --copy {params.source} 2>&1 | tee {log}"

elif BASE_MODEL != BASE_SOURCE:

    # By its name on the hub. Where compute nodes have no network, this one runs where Snakemake does.
    localrules:
        prefetch,

    rule prefetch:
        output:
            directory(BASE_MODEL),
        log:
            f"{RESULTS}/logs/prefetch.log",
        benchmark:
            f"{RESULTS}/benchmarks/prefetch.tsv"
        resources:
            **grant("sft_data"),
        params:
            source=BASE_SOURCE,
            revision=f"--revision {BASE_REVISION}" if BASE_REVISION else "",
        shell:
            "rl4vlm base-model --out {output} --download {params.source} {params.revision} 2>&1 | tee {log}"


rule sft_data:
    input:
        sources=watched("rl4vlm.sft.data", "{task}", "solver"),
        data=task_data,
    output:
        directory(f"{RESULTS}/sft_data/{{task}}-{{style}}"),
    log:
        f"{RESULTS}/logs/sft_data/{{task}}-{{style}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/sft_data/{{task}}-{{style}}.tsv"
    threads: threads_of("sft_data")
    resources:
        **grant("sft_data"),
    params:
        settings=settings("sft_data"),
    shell:
        "rl4vlm sft-data --task {wildcards.task} --style {wildcards.style} --out {output}"
        " --set {params.settings} 2>&1 | tee {log}"
