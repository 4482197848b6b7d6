# One file to publish, from which a reader can rebuild every table and figure. Not part of `all`.


rule archive:
    """Pack tables, figures, their metrics and records, and the code, without weights, into one file."""
    input:
        TABLE_FILES,
        FIGURE_FILES,
        GALLERY,
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
        # The whole resolved config, so that the command reads no config file.
        config=lambda wildcards: sorted(setting_words(config)),
        # The archive packs the code itself, so any commit, edit or new file makes it stale, even an edited comment.
        code=packed_code,
    shell:
        "rl4vlm archive --results {params.results:q} --out {output:q} --config --set {params.config:q} 2>&1 | tee {log:q}"
