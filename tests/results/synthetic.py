"""A results folder as the pipeline leaves it, filled with invented numbers by code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rl4vlm.results.intervals import wilson

# (start, end) success of a run, by task and style.
RATES = {
    ("NumberLine", "cot"): (0.35, 0.95),
    ("NumberLine", "nocot"): (0.25, 0.40),
    ("EZPoints", "cot"): (0.20, 0.62),
    ("EZPoints", "nocot"): (0.10, 0.31),
    ("Points24", "cot"): (0.01, 0.03),
    ("Points24", "nocot"): (0.0, 0.01),
    ("Blackjack", "cot"): (0.28, 0.42),
    ("Blackjack", "nocot"): (0.33, 0.40),
}
CNN_RATES = {"NumberLine": 0.98, "EZPoints": 0.0, "Points24": 0.0, "Blackjack": 0.39}
SCRIPTED = {
    "random": {"NumberLine": 0.28, "EZPoints": 0.0, "Points24": 0.0, "Blackjack": 0.28},
    "solver": {"NumberLine": 1.0, "EZPoints": 1.0, "Points24": 0.73, "Blackjack": 0.43},
}
FIELDS = {
    "NumberLine": ("current number", "target number"),
    "EZPoints": ("cards",),
    "Points24": ("cards",),
    "Blackjack": ("dealer card", "player cards"),
    "ALFWorld": ("place", "in hand"),
}
LAMBDAS = {0.1: 0.30, 0.3: 0.90, 0.5: 0.95, 0.7: 0.40, 0.9: 0.27}


@dataclass
class Synthetic:
    """Where the folders lie, as the arguments of `build_tables` and `draw`."""

    root: Path
    evaluations: list[Path] = field(default_factory=list)
    training_runs: list[Path] = field(default_factory=list)
    base_perceptions: dict[str, Path] = field(default_factory=dict)
    thought_prob_coef: dict[str, float] = field(default_factory=dict)

    @property
    def inputs(self) -> dict[str, Any]:
        return {
            "evaluations": self.evaluations,
            "training_runs": self.training_runs,
            "base_perceptions": self.base_perceptions,
            "thought_prob_coef": self.thought_prob_coef,
        }


def make_results(
    root: Path,
    tasks: Sequence[str] = ("NumberLine", "EZPoints", "Points24", "Blackjack"),
    styles: Sequence[str] = ("cot", "nocot"),
    seeds: Sequence[int] = (1,),
    lambdas: Sequence[float] = tuple(LAMBDAS),
    episodes: int = 200,
    cnn: bool = False,
    variants: Mapping[str, float] | None = None,
) -> Synthetic:
    """What a reproduction writes: scripted, SFT and PPO evaluations, PPO curves, the λ ablation and perception.json.

    With `cnn`, also the runs and evaluations of the CNN+RL baseline. `variants` have their success rates.
    """
    made = Synthetic(root)
    for task in tasks:
        for name, rates in SCRIPTED.items():
            add_evaluation(made, f"{name}-{task}", task, name, "scripted", rates[task], episodes)
        for seed in seeds if cnn else ():
            extra: dict[str, Any] = {"logprob_action": -0.4, "style": "nocot"}
            add_training_run(made, f"{task}-seed{seed}", 0.25, CNN_RATES[task], seed, updates=24)
            add_evaluation(
                made, f"cnn-{task}-seed{seed}", task, "CNN+RL", "cnn", CNN_RATES[task], episodes, seed=seed, **extra
            )
        for style in styles:
            start, end = RATES[task, style]
            suffix = "" if style == "cot" else "-noCoT"
            extra = {"logprob_thoughts": -6.0 - 2 * len(task), "logprob_action": -0.21}
            reads = style == "cot"
            for seed in seeds:
                name, method = f"sft-{task}-{style}-seed{seed}", f"LLaVA-sft{suffix}"
                add_evaluation(
                    made, name, task, method, "sft", start, episodes, seed=seed, style=style, reads=reads, **extra
                )
            for seed in seeds:
                weights = lambdas if task == "NumberLine" and style == "cot" else (0.5,)
                for weight in weights:
                    run = f"{task}-{style}-lambda{weight:g}-seed{seed}"
                    last = LAMBDAS[weight] if len(weights) > 1 else end
                    add_training_run(made, run, start, last, seed)
                    made.thought_prob_coef.setdefault(task, 0.5 if 0.5 in weights else weights[0])
                    extra = {"logprob_thoughts": -2.0 - len(task), "logprob_action": -0.013, "lambda": weight}
                    method = f"RL4VLM{suffix}"
                    rate = max(last - 0.01 * (seed - 1), 0.0)
                    add_evaluation(
                        made,
                        f"ppo-{run}",
                        task,
                        method,
                        "ppo",
                        rate,
                        episodes,
                        seed=seed,
                        style=style,
                        reads=reads,
                        **extra,
                    )
        for variant, rate in (variants or {}).items():
            for seed in seeds:
                run = f"{task}-cot+{variant}-lambda0.5-seed{seed}"
                add_training_run(made, run, 0.2, rate, seed, variant=variant)
                extra = {"lambda": 0.5, "variant": variant}
                add_evaluation(made, f"ppo-{run}", task, "RL4VLM", "ppo", rate, episodes, seed=seed, **extra)
    shares = {task: {name: 0.97 - 0.02 * place for place, name in enumerate(FIELDS[task])} for task in tasks}
    perception = root / "base_model" / "cards" / "perception.json"
    made.base_perceptions = dict.fromkeys(tasks, perception)
    write_json(perception, {"samples": 200, "tasks": shares})
    return made


def add_evaluation(
    made: Synthetic,
    run: str,
    task: str,
    method: str,
    kind: str,
    rate: float,
    episodes: int,
    *,
    seed: int | None = None,
    style: str = "cot",
    reads: bool = False,
    **extra: Any,
) -> Path:
    folder = made.root / "eval" / run
    successes = round(rate * episodes)
    low, high = wilson(successes, episodes)
    perception = {name: {"right": 9, "wrong": 1, "not_stated": 1} for name in FIELDS[task]} if reads else {}
    groups = extra.get("groups", {None: {"successes": successes, "episodes": episodes}})
    won = [(name, k < group["successes"]) for name, group in groups.items() for k in range(group["episodes"])]
    lines = [
        {"episode": k, "seed": 10_000 + k, "success": success, "group": name, "perception": perception}
        for k, (name, success) in enumerate(won)
    ]
    write_lines(folder / "episodes.jsonl", lines)
    write_json(
        folder / "summary.json",
        {
            "method": method,
            "task": task,
            "style": style,
            "policy": run,
            "kind": kind,
            "episodes": episodes,
            "successes": successes,
            "success_rate": 100 * successes / episodes,
            "ci_low": 100 * low,
            "ci_high": 100 * high,
            "lambda": None,
            "mean_return": 2.0 * successes / episodes - 1.0,
            "fallback_rate": 0.01,
            "protocol": "held_out",
            "scale": "embedded",
            "seed": seed,
            **extra,
        },
    )
    made.evaluations.append(folder)
    return folder


def add_training_run(
    made: Synthetic, run: str, start: float, end: float, seed: int, updates: int = 16, variant: str = ""
) -> Path:
    """A curve that rises along an S, with the noise of a window of 200 episodes; nothing is known at first.

    `run` is named as in the workflow: `<task>-<style>-lambda<λ>-seed<n>` for PPO, `<task>-seed<n>` for CNN+RL.
    """
    stage = "ppo" if "-lambda" in run else "cnn"
    folder = made.root / stage / run
    task, *rest = run.split("-")
    settings: dict[str, Any] = {"task": task}
    if stage == "ppo":
        settings |= {
            "variant": variant,
            "style": rest[0].partition("+")[0],
            "thought_prob_coef": float(rest[1].removeprefix("lambda")),
        }
    write_json(folder / "run.json", {"stage": stage, "settings": settings, "seeds": {stage: seed}})
    rng = np.random.default_rng([seed, *run.encode()])
    lines: list[dict[str, Any]] = []
    for update in range(1, updates + 1):
        window = min(60 * update, 200)
        rate = start + (end - start) / (1 + np.exp(-0.8 * (update - updates / 2)))
        lines.append(
            {
                "update": update,
                "env_steps": 512 * update,
                "success_rate": None if update == 1 else int(rng.binomial(window, rate)) / window,
                "window": 0 if update == 1 else window,
                "mean_return": 0.0,
                **({"validation_success_rate": rate, "validation_episodes": 50} if update % 8 == 0 else {}),
            }
        )
    write_lines(folder / "metrics.jsonl", lines)
    made.training_runs.append(folder)
    return folder


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
