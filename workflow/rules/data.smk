# The base model that everything starts from, and the demonstrations that SFT imitates. Workflows may share them through
# a cache (docs/sharing.md), and what comes from there has no benchmark.

if BASE_SOURCE == "pretrain":

    rule base_model:
        """Build the embedded base model and pre-train it on reading pictures (`base_model.source: pretrain`)."""
        input:
            sources=stage_sources("rl4vlm.models.pretrain", config["base_model"]["settings"]["tasks"]),
            data=[folder for task in config["base_model"]["settings"]["tasks"] for folder in data_of(task)],
        output:
            directory(BASE_MODEL),
        log:
            f"{RESULTS}/logs/base_model.log",
        cache: True
        threads: threads_of("base_model")
        resources:
            **grant("base_model"),
        params:
            settings=settings_arguments(base_model_settings(config)),
        shell:
            "rl4vlm base-model --out {output} --set {params.settings} 2>&1 | tee {log}"

elif BASE_SOURCE == "shipped":

    rule base_model:
        """Copy the ready weights of the embedded base model (`base_model.source: shipped`)."""
        input:
            weights=sorted(str(path) for path in Path(SHIPPED).glob("*")),
        output:
            directory(BASE_MODEL),
        log:
            f"{RESULTS}/logs/base_model.log",
        cache: True
        resources:
            **grant("sft_data"),
        params:
            source=lambda wildcards: SHIPPED,
        shell:
            "rl4vlm base-model --out {output} --copy {params.source} 2>&1 | tee {log}"

elif BASE_MODEL != BASE_SOURCE:

    # By its name on the hub. Where compute nodes have no network, this one runs where Snakemake does.
    localrules:
        prefetch,

    rule prefetch:
        """Download the base model by its Hugging Face name, so that no later job needs a network."""
        output:
            directory(BASE_MODEL),
        log:
            f"{RESULTS}/logs/prefetch.log",
        cache: "omit-software"
        resources:
            **grant("sft_data"),
        params:
            source=BASE_SOURCE,
            revision=f"--revision {BASE_REVISION}" if BASE_REVISION else "",
        shell:
            "rl4vlm base-model --out {output} --download {params.source} {params.revision} 2>&1 | tee {log}"


rule sft_data:
    """Write the solver's demonstrations of a task, as LLaVA JSON with pictures."""
    input:
        sources=watched("rl4vlm.sft.data", "{task}", "solver"),
        data=task_data,
    output:
        directory(f"{RESULTS}/sft_data/{{task}}-{{style}}"),
    log:
        f"{RESULTS}/logs/sft_data/{{task}}-{{style}}.log",
    cache: True
    threads: threads_of("sft_data")
    resources:
        **grant("sft_data"),
    params:
        # The cache knows a result by the command as written here, the parameters and the inputs, not by wildcards.
        task="{task}",
        style="{style}",
        settings=settings("sft_data"),
    shell:
        "rl4vlm sft-data --task {params.task} --style {params.style} --out {output}"
        " --set {params.settings} 2>&1 | tee {log}"
