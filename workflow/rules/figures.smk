# Tables and figures, and README's copies of them. Each names the runs that it is made of, so that what an earlier config
# left behind never shows up.

TABLES = expand(
    f"{RESULTS}/tables/{{name}}.{{kind}}",
    name=["main", "cot", "lambda", "perception"],
    kind=["csv", "md", "tex"],
)
FIGURES = ["training_curves", "cot_ablation", "lambda_ablation", "logprob_balance", "perception"]
FIGURE_FILES = expand(f"{RESULTS}/figures/{{name}}.{{kind}}", name=FIGURES, kind=["pdf", "png"])
README_ASSETS = expand(
    "{folder}/{name}", folder=config["assets_dir"], name=["games.png", "training_curves.png", "results.md"]
)
MAIN_LAMBDA = [f"{task}={default_lambda(config, task)}" for task in config["tasks"]]


rule tables:
    """Write the result tables: tidy CSV, Markdown and LaTeX."""
    input:
        perception=sorted(set(READERS.values())),
        evaluations=expand(
            f"{RESULTS}/eval/{{run.name}}/{{file}}",
            run=shown_evaluations("tables"),
            file=["summary.json", "episodes.jsonl"],
        ),
        metrics=expand(f"{RESULTS}/ppo/{{run.name}}/metrics.jsonl", run=shown_runs("tables")),
        cnn_metrics=expand(f"{RESULTS}/cnn/{{run.name}}/metrics.jsonl", run=shown_cnn_runs("tables")),
        sources=stage_sources("rl4vlm.results.tables", []),
    output:
        [name for name in TABLES if not name.endswith(".csv")],
        record=f"{RESULTS}/tables/run.json",
        main=report(
            f"{RESULTS}/tables/main.csv",
            caption="../report/table_main.rst",
            category="Tables",
            labels={"table": "main results"},
        ),
        cot=report(
            f"{RESULTS}/tables/cot.csv",
            caption="../report/table_cot.rst",
            category="Tables",
            labels={"table": "with and without thoughts"},
        ),
        lam=report(
            f"{RESULTS}/tables/lambda.csv",
            caption="../report/table_lambda.rst",
            category="Tables",
            labels={"table": "weight of the thoughts"},
        ),
        perception=report(
            f"{RESULTS}/tables/perception.csv",
            caption="../report/table_perception.rst",
            category="Tables",
            labels={"table": "perception accuracy"},
        ),
    log:
        f"{RESULTS}/logs/tables.log",
    benchmark:
        f"{RESULTS}/benchmarks/tables.tsv"
    resources:
        **grant("figures"),
    params:
        results=lambda wildcards: RESULTS,
        evaluations=[run.name for run in shown_evaluations("tables")],
        runs=[run.name for run in shown_runs("tables")],
        cnn_runs=[run.name for run in shown_cnn_runs("tables")],
        base_perceptions=BASE_PERCEPTIONS,
        scale=config["label"],
        main_lambda=MAIN_LAMBDA,
    shell:
        "rl4vlm tables --results {params.results} --evaluations {params.evaluations} --ppo-runs {params.runs}"
        " --cnn-runs {params.cnn_runs} --main-lambda {params.main_lambda} --scale {params.scale} --base-perceptions {params.base_perceptions}"
        " --out {params.results}/tables 2>&1 | tee {log}"


# A figure is one function, one rule and one caption.
for FIGURE in FIGURES:

    rule:
        """Draw a figure of the paper as PDF and PNG, from metrics and episodes alone."""
        name:
            FIGURE
        input:
            perception=sorted(set(READERS.values())),
            evaluations=expand(
                f"{RESULTS}/eval/{{run.name}}/{{file}}",
                run=shown_evaluations(FIGURE),
                file=["summary.json", "episodes.jsonl"],
            ),
            metrics=expand(f"{RESULTS}/ppo/{{run.name}}/metrics.jsonl", run=shown_runs(FIGURE)),
            cnn_metrics=expand(f"{RESULTS}/cnn/{{run.name}}/metrics.jsonl", run=shown_cnn_runs(FIGURE)),
            sources=stage_sources("rl4vlm.figures.draw", [FIGURE]),
        output:
            pdf=f"{RESULTS}/figures/{FIGURE}.pdf",
            record=f"{RESULTS}/figures/{FIGURE}.run.json",
            png=report(
                f"{RESULTS}/figures/{FIGURE}.png",
                caption=f"../report/figure_{FIGURE}.rst",
                category="Figures",
                labels={"figure": FIGURE.replace("_", " ")},
            ),
        log:
            f"{RESULTS}/logs/figures/{FIGURE}.log",
        benchmark:
            f"{RESULTS}/benchmarks/figures/{FIGURE}.tsv"
        resources:
            **grant("figures"),
        params:
            name=FIGURE,
            results=lambda wildcards: RESULTS,
            evaluations=[run.name for run in shown_evaluations(FIGURE)],
            runs=[run.name for run in shown_runs(FIGURE)],
            cnn_runs=[run.name for run in shown_cnn_runs(FIGURE)],
            base_perceptions=BASE_PERCEPTIONS,
            scale=config["label"],
            main_lambda=MAIN_LAMBDA,
            style=stage_arguments(FigureSettings, config["figures"]["style"]),
        shell:
            "rl4vlm figure {params.name} --results {params.results} --evaluations {params.evaluations}"
            " --ppo-runs {params.runs} --cnn-runs {params.cnn_runs} --main-lambda {params.main_lambda}"
            " --scale {params.scale} --base-perceptions {params.base_perceptions}"
            " --out {params.results}/figures --set {params.style} 2>&1 | tee {log}"


rule readme_assets:
    """Copy README's pictures and table from the results."""
    input:
        tables=f"{RESULTS}/tables/main.md",
        figures=f"{RESULTS}/figures/training_curves.png",
        sources=stage_sources("rl4vlm.figures.assets", config["tasks"]),
    output:
        README_ASSETS,
    log:
        f"{RESULTS}/logs/readme_assets.log",
    benchmark:
        f"{RESULTS}/benchmarks/readme_assets.tsv"
    resources:
        **grant("figures"),
    params:
        tables=subpath(input.tables, parent=True),
        figures=subpath(input.figures, parent=True),
        out=lambda wildcards: config["assets_dir"],
    shell:
        "rl4vlm readme-assets --tables {params.tables} --figures {params.figures} --out {params.out} 2>&1 | tee {log}"
