"""Summarises the repeats of a benchmark: rates, ratios between modes, hours of the paper's run, and their table."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.counting import Ceiling, Work
from rl4vlm.training.plan import run_hours

MODES = ("ours", "public")
PAPER_STEPS, PAPER_EPOCHS = 15_000, 4
"""Environment steps of one of the public run's two processes (config/scales/paper.yaml), and epochs per update."""


@dataclass(frozen=True)
class Phase:
    """One timed phase.

    Attributes:
        seconds: wall time.
        processor_seconds: CPU time of all threads together.
        samples: environment steps, or scored replies.
        prompt_tokens, reply_tokens: tokens of all prompts and of all replies.
        works: the least work needed, one entry per step that cannot overlap with the others.
        peak_memory: bytes, or None if unknown.
    """

    seconds: float
    processor_seconds: float
    samples: int
    prompt_tokens: float
    reply_tokens: float
    works: tuple[Work, ...]
    peak_memory: int | None

    def share(self, ceiling: Ceiling) -> float:
        """The least time that the hardware allows, divided by the measured time."""
        return sum(work.seconds(ceiling) for work in self.works) / self.seconds

    @property
    def flops(self) -> float:
        return sum(work.flops for work in self.works)


@dataclass(frozen=True)
class Repeat:
    """The three phases of one repeat of one mode, and the number of distinct (image, prompt) pairs."""

    rollout: Phase
    score: Phase
    update: Phase
    distinct: int


def summary(repeats: Sequence[Repeat], ceiling: Ceiling) -> dict[str, Any]:
    """Medians over the repeats; `spread` is (largest - smallest) / median of each rate."""

    def median(rate: Callable[[Repeat], float]) -> float:
        return statistics.median(rate(one) for one in repeats)

    rates: dict[str, Callable[[Repeat], float]] = {
        "env_steps_per_s": lambda one: one.rollout.samples / one.rollout.seconds,
        "generated_tokens_per_s": lambda one: one.rollout.reply_tokens / one.rollout.seconds,
        "scored_samples_per_s": lambda one: one.score.samples / one.score.seconds,
        "update_samples_per_s": lambda one: one.update.samples / one.update.seconds,
        "update_tokens_per_s": lambda one: (one.update.prompt_tokens + one.update.reply_tokens) / one.update.seconds,
        "rollout_share": lambda one: one.rollout.share(ceiling),
        "score_share": lambda one: one.score.share(ceiling),
        "update_share": lambda one: one.update.share(ceiling),
        "update_flops_per_s": lambda one: one.update.flops / one.update.seconds,
    }
    made: dict[str, Any] = {name: median(rate) for name, rate in rates.items()}
    made["spread"] = {
        name: (max(map(rate, repeats)) - min(map(rate, repeats))) / made[name] for name, rate in rates.items()
    }
    made["prompt_tokens"] = median(lambda one: one.rollout.prompt_tokens / one.rollout.samples)
    made["reply_tokens"] = median(lambda one: one.rollout.reply_tokens / one.rollout.samples)
    made["distinct_prompts"] = median(lambda one: one.distinct / one.rollout.samples)
    for name in ("rollout", "update"):
        peaks = [getattr(one, name).peak_memory for one in repeats]
        made[f"{name}_peak_memory"] = None if None in peaks else max(peaks)
    return made


def ratios(found: dict[str, list[Repeat]], unit: str = "seconds") -> dict[str, list[float]] | None:
    """The rate of mode `ours` divided by that of mode `public`, by phase, for each repeat.

    `unit` is the field of `Phase` that holds the time. Returns None if only one mode was measured.
    """
    if not all(found.get(name) for name in MODES):
        return None
    pairs = list(zip(found["ours"], found["public"], strict=False))
    return {
        phase: [per_sample(getattr(b, phase), unit) / per_sample(getattr(a, phase), unit) for a, b in pairs]
        for phase in ("rollout", "score", "update")
    }


def per_sample(phase: Phase, unit: str = "seconds") -> float:
    """Seconds per sample, in wall time or CPU time."""
    return float(getattr(phase, unit)) / phase.samples


def hours(repeats: Sequence[Repeat], rescored: bool = False) -> float:
    """Hours of the paper's run, extrapolated: each environment step is played once and learned from four times, and
    before that scored once more where the update does so (below float32)."""
    play = statistics.median(per_sample(one.rollout) for one in repeats)
    learn = statistics.median(per_sample(one.update) for one in repeats)
    again = statistics.median(per_sample(one.score) for one in repeats) if rescored else 0.0
    return run_hours(PAPER_STEPS, PAPER_EPOCHS, play, again, learn)


COLUMNS: Sequence[tuple[str, str, Callable[[float], str]]] = (
    ("environments", "num_envs", str),
    ("micro-batch", "micro_batch_size", str),
    ("env steps/s", "env_steps_per_s", "{:.3g}".format),
    ("generated tokens/s", "generated_tokens_per_s", "{:,.0f}".format),
    ("scored samples/s", "scored_samples_per_s", "{:.3g}".format),
    ("update samples/s", "update_samples_per_s", "{:.3g}".format),
    ("update tokens/s", "update_tokens_per_s", "{:,.0f}".format),
    ("rollout share of ceiling", "rollout_share", "{:.0%}".format),
    ("update share of ceiling", "update_share", "{:.0%}".format),
    ("rollout memory GB", "rollout_peak_memory", lambda size: f"{size / 1e9:.2f}"),
    ("update memory GB", "update_peak_memory", lambda size: f"{size / 1e9:.2f}"),
)


def table(result: dict[str, Any]) -> str:
    """The result as Markdown: what was measured on which machine, one row per mode, and the ratios."""
    settings, where, ceiling = result["settings"], result["hardware"], result["ceiling"]
    machine = (
        ", ".join(where["gpus"])
        if settings["device"].startswith("cuda")
        else (f"{where['processor']}, {where['threads']} threads")
    )
    one = next(iter(result["modes"].values()))
    how = settings["dtype"] + ", frozen vision tower" * settings["freeze_vision"]
    lines = [
        f"{settings['model']}, {result['parameters'] / 1e6:.4g} M parameters, "
        f"{result['trained'] / 1e6:.4g} M trained with the value head, "
        f"{how}; {settings['task']}, {one['prompt_tokens']:.0f} prompt and {one['reply_tokens']:.0f} "
        f"reply tokens, {one['distinct_prompts']:.0%} of the prompts distinct; {machine}; {result['date']}.",
        f"Ceiling measured: {ceiling['flops'] / 1e9:,.0f} GFLOP/s, {ceiling['bytes'] / 1e9:,.0f} GB/s.",
        "",
        "| mode | " + " | ".join(title for title, _, _ in COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    for name, found in result["modes"].items():
        cells = ["not known" if found[key] is None else shown(found[key]) for _, key, shown in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    if result["ratios"] is not None:
        lines.append(ratio_row("ratio", result["ratios"]))
        if not settings["device"].startswith("cuda"):
            lines.append(ratio_row("ratio by processor time", result["processor_ratios"]))
    lines.append("")
    for name, taken in result["hours"].items():
        lines.append(
            f"{PAPER_STEPS:,} environment steps, {PAPER_EPOCHS} epochs, extrapolated, mode {name}: {taken:.2f} hours."
        )
    if result["profile"] is not None:
        seen = result["profile"]
        lines.append(
            f"Profile of mode {settings['modes'][0]}: {seen['synchronisations_per_token']:.2f} synchronising calls per "
            f"generated token, {seen['synchronisations_per_sample']:.2f} per sample of an update, "
            f"{seen['compiled_graphs']} compiled graphs."
        )
    return "\n".join(lines)


def ratio_row(title: str, found: dict[str, list[float]]) -> str:
    """A row of the table: median, smallest and largest of the repeats."""

    def shown(phase: str) -> str:
        taken = found[phase]
        return f"{statistics.median(taken):.2f} ({min(taken):.2f} to {max(taken):.2f})"

    cells = ["", "", shown("rollout"), "", shown("score"), shown("update"), *[""] * (len(COLUMNS) - 6)]
    return f"| {title} | {' | '.join(cells)} |"
