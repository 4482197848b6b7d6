# Sample episodes step by step, as a page to open in a browser.

GALLERY = f"{RESULTS}/gallery/index.html"


rule gallery:
    """Show sample episodes step by step, as one page for a browser."""
    input:
        evaluations=expand(
            f"{RESULTS}/eval/{{run.name}}/{{file}}",
            run=shown_evaluations("gallery"),
            file=["summary.json", "episodes.jsonl", "run.json"],
        ),
        # Every task's own sources: the episodes are played again.
        sources=stage_sources("rl4vlm.gallery.build", config["tasks"]),
        data=[folder for task in config["tasks"] for folder in data_of(task)],
    output:
        page=GALLERY,
        record=f"{RESULTS}/gallery/run.json",
    log:
        f"{RESULTS}/logs/gallery.log",
    benchmark:
        f"{RESULTS}/benchmarks/gallery.tsv"
    resources:
        **grant("figures"),
    params:
        out=subpath(output.page, parent=True),
        results=lambda wildcards: RESULTS,
        evaluations=[run.name for run in shown_evaluations("gallery")],
        scale=config["label"],
        settings=stage_arguments(GallerySettings, config["gallery"]),
    shell:
        "rl4vlm gallery --results {params.results} --evaluations {params.evaluations} --scale {params.scale}"
        " --out {params.out} --set {params.settings} 2>&1 | tee {log}"
