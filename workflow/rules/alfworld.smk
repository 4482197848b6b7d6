# ALFWorld's games: a folder that the config names, or generated ones.


rule alfworld_games:
    """Generate ALFWorld games, for those who have not the benchmark's."""
    input:
        sources=stage_sources("rl4vlm.envs.alfworld.generator", []),
    output:
        directory(f"{RESULTS}/alfworld_games"),
    log:
        f"{RESULTS}/logs/alfworld_games.log",
    benchmark:
        f"{RESULTS}/benchmarks/alfworld_games.tsv"
    threads: threads_of("alfworld_games")
    resources:
        **grant("alfworld_games"),
    params:
        settings=stage_arguments(GamesSettings, config["alfworld"]["generate"]),
    shell:
        "rl4vlm alfworld-games --out {output} --processes {threads} --set {params.settings} 2>&1 | tee {log}"
