# Results to hand on: one file from which a reader rebuilds every table and figure. Not part of `all`.


rule archive:
    """Pack tables, figures, their metrics and records, and the code, without weights, into one file to check."""
    input:
        TABLE_FILES,
        FIGURE_FILES,
        GALLERY,
        sources=stage_sources("rl4vlm.archive.pack", []),
    output:
        f"{RESULTS}/archive.zip",
    log:
        f"{RESULTS}/logs/archive.log",
    benchmark:
        f"{RESULTS}/benchmarks/archive.tsv"
    resources:
        **grant("figures"),
    params:
        results=lambda wildcards: RESULTS,
        # All of it, as it is resolved here, so that no file is read over it.
        config=lambda wildcards: settings_arguments(config),
        # Another commit, edit or new file is another archive.
        code=packed_code,
    shell:
        "rl4vlm archive --results {params.results} --out {output} --config --set {params.config} 2>&1 | tee {log}"
