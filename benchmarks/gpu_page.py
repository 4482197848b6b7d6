"""The page of results of `gpu_check.py`, from its lines of JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.rates import PAPER_EPOCHS, PAPER_STEPS
from rl4vlm.training.plan import run_hours

STEPS = 2 * PAPER_STEPS
"""Environment steps of a run at the paper's scale: those of both processes (`config/scales/paper.yaml`)."""
Line = dict[str, Any]


def page(lines: Sequence[Line]) -> str:
    """The page, as Markdown. The first line is about the machine."""
    about, results = lines[0], lines[1:]
    parts = [_header(about)]
    for title, rows in (
        ("Correctness", _correctness(results)),
        ("Memory, GB", _memory(results)),
        ("Playing", _playing(results)),
        (f"Learning, and the hours of {STEPS:,} steps", _learning(results)),
        ("Waits for the GPU", _profiles(results)),
        ("Not measured", _missing(results)),
    ):
        if rows:
            parts.append("\n".join([f"## {title}", "", *rows]))
    return "\n\n".join(parts) + "\n"


def failed(lines: Iterable[Line]) -> bool:
    """Whether a check did not pass or could not be made. Running out of memory with some choice is no failure."""
    return any(line.get("passed") is False or "error" in line for line in lines)


def _header(about: Line) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    where = ", ".join(about["hardware"]["gpus"]) or about["hardware"]["processor"]
    told = [f"# gpu-check on {where}", ""]
    if about["device"] == "cpu":
        told += [
            "**This is a CPU. Nothing here was measured on a GPU, and nothing here says how fast or large one is.**",
            "",
        ]
    code = about["code"]
    told += [
        f"{about['date']}; shapes of {about['model']} with random weights, whose replies all have {about['tokens']} "
        f"tokens; {about['seconds']:.0f} s in all.",
        "",
        f"Revision {code['revision']}{', changed' if code['changed'] else ''}. {packages}.",
    ]
    return "\n".join(told)


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    if not rows:
        return []
    made = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return made + [f"| {' | '.join(map(str, row))} |" for row in rows]


def _correctness(lines: Sequence[Line]) -> list[str]:
    rows = [
        (
            one["model"],
            one["dtype"],
            one["check"],
            _number(one["found"]),
            f"{one['limit']:g}",
            "yes" if one["passed"] else "**NO**",
        )
        for one in lines
        if one["part"] == "correctness" and "check" in one
    ]
    return _table(("model", "dtype", "check", "found", "limit", "passed"), rows)


def _measured(lines: Sequence[Line], kind: str) -> list[Line]:
    return [one for one in lines if one.get("measured") == kind]


SETTINGS = ("dtype", "LoRA", "attention", "game")
"""The columns of `_settings`."""


def _settings(line: Line) -> tuple[str, int, str, str]:
    choice = line["choice"]
    game = choice["task"] if choice["share_prompts"] else f"{choice['task']}, prompts not shared"
    return choice["dtype"], choice["lora_rank"], choice["attention"], game


def _distinct(line: Line) -> str:
    return f"{line['distinct_prompts']} of {line['samples']}" if "samples" in line else ""


def _update(line: Line) -> tuple[int, str]:
    choice = line["choice"]
    return choice["micro_batch_size"], "yes" if choice["gradient_checkpointing"] else "no"


def _memory(lines: Sequence[Line]) -> list[str]:
    rows = []
    for one in lines:
        if one.get("peak_memory") is not None:
            what = (
                f"{one['choice']['num_envs']} environments"
                if one["measured"] == "play"
                else "micro-batch {}, checkpointing {}".format(*_update(one))
            )
            sizes = [f"{one[name] / 1e9:.1f}" for name in ("peak_memory", "estimated_memory")]
            rows.append((*_settings(one), one["measured"], what, *sizes))
    return _table((*SETTINGS, "phase", "", "measured peak", "rl4vlm memory"), rows)


def _playing(lines: Sequence[Line]) -> list[str]:
    rows = [
        (
            *_settings(one),
            _distinct(one),
            *(one["choice"][name] for name in ("kv_cache", "num_envs")),
            *(_number(one.get(name)) for name in ("played_per_s", "tokens_per_s")),
        )
        for one in _measured(lines, "play")
    ]
    return _table((*SETTINGS, "distinct prompts", "cache", "environments", "steps/s", "tokens/s"), rows)


def _learning(lines: Sequence[Line]) -> list[str]:
    # Of two kinds of cache, the hours are computed with the faster one, which comes last.
    plays = [one for one in _measured(lines, "play") if "played_per_s" in one]
    plays.sort(key=lambda one: float(one["played_per_s"]))
    counts = sorted({one["choice"]["num_envs"] for one in plays})
    rows = []
    for one in _measured(lines, "learn"):
        speeds = {
            play["choice"]["num_envs"]: play["played_per_s"] for play in plays if _settings(play) == _settings(one)
        }
        hours = [
            _number(_hours(speeds[count], one)) if count in speeds and "trained_per_s" in one else ""
            for count in counts
        ]
        rows.append(
            (
                *_settings(one),
                _distinct(one),
                *_update(one),
                *(_number(one.get(name)) for name in ("scored_per_s", "trained_per_s")),
                *hours,
            )
        )
    columns = (*SETTINGS, "distinct prompts", "micro-batch", "checkpointing", "scored/s", "trained/s")
    made = _table((*columns, *(f"hours, {count} environments" for count in counts)), rows)
    told = (
        "An empty cell: out of memory, or not measured. Options of `rl4vlm memory`: `--played-per-second` is steps/s "
        "of the table above; `--scored-per-second` and `--trained-per-second` are scored/s and trained/s. Hours are "
        "without `importance_cap`: in float32 it adds a pass that scores each sample again; below, hours include it."
    )
    return made and [*made, "", told]


def _hours(played: float, learned: Line) -> float:
    # Only below float32 is a rollout scored again before its update.
    again = 0.0 if learned["choice"]["dtype"] == "float32" else 1 / learned["scored_per_s"]
    return run_hours(STEPS, PAPER_EPOCHS, 1 / played, again, 1 / learned["trained_per_s"])


def _profiles(lines: Sequence[Line]) -> list[str]:
    rows = []
    for one in lines:
        if one["part"] == "profile" and "error" not in one:
            calls = ", ".join(f"{name} {times}" for name, times in one["synchronising_calls"].items())
            rows += [
                f"Synchronising calls: {one['synchronisations_per_token']:.2f} per generated token, "
                f"{one['synchronisations_per_sample']:.2f} per sample of an update. {calls}."
            ]
    return rows


def _missing(lines: Sequence[Line]) -> list[str]:
    rows = [f"- {one['part']}: {one['error']}" for one in lines if "error" in one]
    rows += [f"- {one['not_measured']}: not measured, {one['why']}" for one in lines if "not_measured" in one]
    return rows + [f"- out of memory: {one['choice']}" for one in lines if one.get("out_of_memory")]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
