# The base models that everything starts from, and the demonstrations that SFT imitates. Workflows may share them through
# a cache (docs/sharing.md), and what comes from there has no benchmark.


rule base_model:
    """Build an embedded base model and pre-train it on reading pictures (source `pretrain`)."""
    input:
        sources=lambda wildcards: stage_sources(
            "rl4vlm.base_model.pretrain", BASES[wildcards.base].settings["pretrain_tasks"]
        ),
        data=lambda wildcards: [
            folder for task in BASES[wildcards.base].settings["pretrain_tasks"] for folder in data_of(task)
        ],
    output:
        directory(f"{RESULTS}/base_model/{{base}}"),
    log:
        f"{RESULTS}/logs/base_model/{{base}}.log",
    wildcard_constraints:
        base=bases("pretrain"),
    cache: True
    threads: threads_of("base_model")
    resources:
        **grant("base_model"),
    params:
        settings=lambda wildcards: stage_arguments(PretrainSettings, BASES[wildcards.base].settings),
    shell:
        "rl4vlm base-model --out {output} --set {params.settings} 2>&1 | tee {log}"


rule shipped_model:
    """Copy the ready weights of an embedded base model (source `shipped`)."""
    input:
        weights=lambda wildcards: sorted(map(str, Path(SHIPPED, wildcards.base).glob("*"))),
    output:
        directory(f"{RESULTS}/base_model/{{base}}"),
    log:
        f"{RESULTS}/logs/base_model/{{base}}.log",
    wildcard_constraints:
        base=bases("shipped"),
    cache: True
    resources:
        **grant("sft_data"),
    params:
        source=lambda wildcards: f"{SHIPPED}/{wildcards.base}",
    shell:
        "rl4vlm base-model --out {output} --copy {params.source} 2>&1 | tee {log}"


# Where compute nodes have no network, these run where Snakemake does.
localrules:
    download,
    prefetch,


rule download:
    """Download a base model by its Hugging Face name, so that no later job needs a network."""
    output:
        directory(f"{RESULTS}/base_model/{{base}}"),
    log:
        f"{RESULTS}/logs/base_model/{{base}}.log",
    wildcard_constraints:
        base=bases("hub"),
    cache: "omit-software"
    resources:
        **grant("sft_data"),
    params:
        source=lambda wildcards: BASES[wildcards.base].source,
        revision=lambda wildcards: [f"--revision {BASES[wildcards.base].revision}"]
        * bool(BASES[wildcards.base].revision),
    shell:
        "rl4vlm base-model --out {output} --download {params.source} {params.revision} 2>&1 | tee {log}"


# Every download and nothing else, ahead of time: snakemake prefetch
rule prefetch:
    input:
        [model.folder(RESULTS) for model in BASES.values() if model.kind == "hub"],


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
