# ALFWorld's games, unless the config names a folder that already holds them.


rule alfworld_games:
    """Generate ALFWorld games if you do not have the official ones."""
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
        code=code_of("rl4vlm.envs.alfworld.generator"),
        settings=stage_arguments(GamesSettings, config["alfworld"]["generate"]),
    shell:
        "rl4vlm alfworld-games --out {output:q} --processes {threads} --set {params.settings:q} 2>&1 | tee {log:q}"
