# A page that shows sample episodes step by step.

GALLERY = f"{RESULTS}/gallery/index.html"


rule gallery:
    """Write the gallery: one page for a browser that shows sample episodes step by step."""
    input:
        evaluations=expand(
            f"{RESULTS}/eval/{{run.name}}/{{file}}",
            run=shown_evaluations("gallery"),
            file=["summary.json", "episodes.jsonl", "run.json"],
        ),
        data=all_data,
    output:
        page=GALLERY,
        record=f"{RESULTS}/gallery/run.json",
    log:
        f"{RESULTS}/logs/gallery.log",
    benchmark:
        f"{RESULTS}/benchmarks/gallery.tsv"
    resources:
        **grant("gallery"),
    params:
        # The gallery replays the episodes, so it runs the code of every task.
        code=code_of("rl4vlm.gallery.build", *config["tasks"]),
        given=given_files(all_data),
        out=subpath(output.page, parent=True),
        results=lambda wildcards: RESULTS,
        evaluations=[run.name for run in shown_evaluations("gallery")],
        scale=lambda wildcards: config["label"],
        settings=stage_arguments(GallerySettings, config["gallery"]),
    shell:
        "rl4vlm gallery --results {params.results:q} --evaluations {params.evaluations:q} --scale={params.scale:q}"
        " --out {params.out:q} --set {params.settings:q} 2>&1 | tee {log:q}"
