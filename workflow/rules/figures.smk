# Tables and figures, and README's copies of them. Each rule names the runs that it shows, so results that an earlier
# config left in the folder never appear.

SHOWN_TABLES = expected_tables(config)
TABLE_FILES = [f"{RESULTS}/tables/{name}" for name in table_files(SHOWN_TABLES)]
FIGURE_FILES = [f"{RESULTS}/figures/{name}" for name in figure_files(SHOWN_TABLES)]
README_ASSETS = [str(file) for file in asset_files(Path(config["assets_dir"]), SHOWN_TABLES)]
# The command line's changes to the config, for the results page. Snakemake makes the paths absolute; they are made
# relative again, because a published page should say nothing about this machine.
CONFIGFILES = [os.path.relpath(file) for file in workflow.overwrite_configfiles]
CONFIG = [f"{key}={json.dumps(value)}" for key, value in workflow.config_settings.config.items()]
OVERRIDES = ["--configfile", *CONFIGFILES] * bool(CONFIGFILES) + ["--config", *CONFIG] * bool(CONFIG)
# The λ of the method itself; the λ ablation also trains with other values.
THOUGHT_PROB_COEF = [f"{task}={thought_prob_coef(config, task)}" for task in config["tasks"]]


rule tables:
    """Write the result tables: tidy CSV, Markdown and LaTeX."""
    input:
        perception=sorted(set(READERS.values())),
        evaluations=expand(
            f"{RESULTS}/eval/{{run.name}}/{{file}}",
            run=shown_evaluations("tables"),
            file=["summary.json", "episodes.jsonl"],
        ),
        runs=expand(
            f"{RESULTS}/ppo/{{run.name}}/{{file}}", run=shown_runs("tables"), file=["metrics.jsonl", "run.json"]
        ),
        cnn_runs=expand(
            f"{RESULTS}/cnn/{{run.name}}/{{file}}", run=shown_cnn_runs("tables"), file=["metrics.jsonl", "run.json"]
        ),
    output:
        [name for name in TABLE_FILES if not name.endswith(".csv")],
        [
            report(
                f"{RESULTS}/tables/{name}.csv",
                caption=f"../report/table_{name}.rst",
                category="Tables",
                labels={"table": TABLES[name]},
            )
            for name in SHOWN_TABLES
        ],
        record=f"{RESULTS}/tables/run.json",
    log:
        f"{RESULTS}/logs/tables.log",
    benchmark:
        f"{RESULTS}/benchmarks/tables.tsv"
    resources:
        **grant("figures"),
    params:
        code=code_of("rl4vlm.results.tables"),
        results=lambda wildcards: RESULTS,
        evaluations=[run.name for run in shown_evaluations("tables")],
        runs=[run.name for run in shown_runs("tables")],
        cnn_runs=[run.name for run in shown_cnn_runs("tables")],
        base_perceptions=BASE_PERCEPTIONS,
        scale=lambda wildcards: config["label"],
        thought_prob_coef=THOUGHT_PROB_COEF,
    shell:
        "rl4vlm tables --results {params.results:q} --evaluations {params.evaluations:q} --ppo-runs {params.runs:q}"
        " --cnn-runs {params.cnn_runs:q} --thought-prob-coef {params.thought_prob_coef:q} --scale={params.scale:q} --base-perceptions {params.base_perceptions:q}"
        " --out {params.results:q}/tables 2>&1 | tee {log:q}"


# Each figure has one function, one rule and one caption.
for FIGURE in figures_beside(SHOWN_TABLES):

    rule:
        """Draw a figure of the paper as PDF and PNG, from metrics and episodes."""
        name:
            FIGURE
        input:
            perception=sorted(set(READERS.values())),
            evaluations=expand(
                f"{RESULTS}/eval/{{run.name}}/{{file}}",
                run=shown_evaluations(FIGURE),
                file=["summary.json", "episodes.jsonl"],
            ),
            runs=expand(
                f"{RESULTS}/ppo/{{run.name}}/{{file}}", run=shown_runs(FIGURE), file=["metrics.jsonl", "run.json"]
            ),
            cnn_runs=expand(
                f"{RESULTS}/cnn/{{run.name}}/{{file}}", run=shown_cnn_runs(FIGURE), file=["metrics.jsonl", "run.json"]
            ),
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
            code=code_of("rl4vlm.figures.draw", FIGURE),
            name=FIGURE,
            results=lambda wildcards: RESULTS,
            evaluations=[run.name for run in shown_evaluations(FIGURE)],
            runs=[run.name for run in shown_runs(FIGURE)],
            cnn_runs=[run.name for run in shown_cnn_runs(FIGURE)],
            base_perceptions=BASE_PERCEPTIONS,
            scale=lambda wildcards: config["label"],
            thought_prob_coef=THOUGHT_PROB_COEF,
            style=lambda wildcards: stage_arguments(FigureSettings, config["figures"]["style"]),
        shell:
            "rl4vlm figure {params.name:q} --results {params.results:q} --evaluations {params.evaluations:q}"
            " --ppo-runs {params.runs:q} --cnn-runs {params.cnn_runs:q} --thought-prob-coef {params.thought_prob_coef:q}"
            " --scale={params.scale:q} --base-perceptions {params.base_perceptions:q}"
            " --out {params.results:q}/figures --set {params.style:q} 2>&1 | tee {log:q}"


rule readme_assets:
    """Write README's images and table, and the page of all results."""
    input:
        tables=TABLE_FILES,
        figures=[name for name in FIGURE_FILES if name.endswith(".png")],
        record=rules.tables.output.record,
        # The page says from which code, seeds and machine the runs came.
        evaluations=expand(f"{RESULTS}/eval/{{run.name}}/run.json", run=shown_evaluations("tables")),
        runs=expand(f"{RESULTS}/ppo/{{run.name}}/run.json", run=shown_runs("tables")),
        cnn_runs=expand(f"{RESULTS}/cnn/{{run.name}}/run.json", run=shown_cnn_runs("tables")),
    output:
        README_ASSETS,
    log:
        f"{RESULTS}/logs/readme_assets.log",
    benchmark:
        f"{RESULTS}/benchmarks/readme_assets.tsv"
    resources:
        **grant("figures"),
    params:
        code=code_of("rl4vlm.figures.assets", *config["tasks"]),
        tables=lambda wildcards: f"{RESULTS}/tables",
        figures=lambda wildcards: f"{RESULTS}/figures",
        out=lambda wildcards: config["assets_dir"],
        command=shlex.join(["snakemake", "--cores", "all", *OVERRIDES]),
        # README is not an output, because most of it is written by hand.
        readme=["--readme README.md"] * (page_in(Path(config["assets_dir"])) == Path("docs/results.md")),
    shell:
        "rl4vlm readme-assets --tables {params.tables:q} --figures {params.figures:q} --out {params.out:q}"
        " --command {params.command:q} {params.readme} 2>&1 | tee {log:q}"
