# The base models that SFT starts from, and the demonstrations that it imitates. Several workflows can share them
# through a cache (docs/sharing.md). These rules have no benchmark, because copying from a cache takes no time worth
# reporting.


rule base_model:
    """Build an embedded base model and pre-train it to read the tasks' images (source `pretrain`)."""
    input:
        data=games_read,
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
        rl4vlm=stage_command(config, "base_model"),
        code=lambda wildcards: code_digest(
            "rl4vlm.base_model.pretrain", BASES[wildcards.base].settings["pretrain_tasks"]
        ),
        given=given_files(games_read),
        settings=lambda wildcards: SettingWords(stage_arguments(PretrainSettings, BASES[wildcards.base].settings)),
    # The state's folder is not a param: with another results folder, Snakemake's cache would no longer find the result.
    shell:
        "{params.rl4vlm:q} base-model --out {output:q} --state {output:q}.state --set {params.settings:q} 2>&1"
        " | tee {log:q}"


rule shipped_model:
    """Copy the pre-trained weights of an embedded base model that come with the project (source `shipped`)."""
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
        "rl4vlm base-model --out {output:q} --copy {params.source:q} 2>&1 | tee {log:q}"


# Compute nodes may have no network: these rules run on the machine where Snakemake runs.
localrules:
    download,
    prefetch,


rule download:
    """Download a base model by its Hugging Face name. No later job needs the network."""
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
        revision=lambda wildcards: ["--revision", rev] if (rev := BASES[wildcards.base].revision) else [],
    shell:
        "rl4vlm base-model --out {output:q} --download {params.source:q} {params.revision:q} 2>&1 | tee {log:q}"


rule prefetch:
    """Download every base model ahead of time, and run nothing else."""
    input:
        [model.folder(RESULTS) for model in BASES.values() if model.kind == "hub"],


rule sft_data:
    """Write demonstrations of a task by its solver, in ALFWorld by an expert: LLaVA's JSON format, with images."""
    input:
        data=task_data,
    output:
        directory(f"{RESULTS}/sft_data/{DATA_NAME}"),
    log:
        f"{RESULTS}/logs/sft_data/{DATA_NAME}.log",
    cache: True
    threads: threads_of("sft_data")
    resources:
        **grant("sft_data"),
    params:
        code=code_of("rl4vlm.sft.data", "{task}", "solver"),
        given=given_files(task_data),
        # The cache identifies a result by its shell command, params and inputs, but not by its wildcards.
        task="{task}",
        style="{style}",
        settings=settings("sft_data"),
    # As for rule base_model.
    shell:
        "rl4vlm sft-data --task {params.task:q} --style {params.style:q} --out {output:q} --state {output:q}.state"
        " --set {params.settings:q} 2>&1 | tee {log:q}"
