"""Measures the throughput of PPO with a vision-language model, in this project's way and in the public code's way.

    python benchmarks/throughput.py --out throughput.json
    python benchmarks/throughput.py --device cuda --model llava-mistral-7b --out throughput.json --profile profile.txt

Weights are random and nothing is downloaded. Prints a Markdown table; docs/throughput.md says how it is counted. The
second command needs a GPU. Without one it prints that it was not run.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.backbones import SHAPES, build
from benchmarks.ceiling import measure_ceiling
from benchmarks.counting import Ceiling
from benchmarks.modes import Mode, Settings, vlm_item
from benchmarks.profiled import Profiled, profile
from benchmarks.rates import MODES, Repeat, hours, ratios, summary, table
from rl4vlm.config.stages.backbone import LoraSettings
from rl4vlm.core.files import atomic_write_text, jsonable
from rl4vlm.models.devices import choose_device
from rl4vlm.models.loading import DTYPES
from rl4vlm.models.lora import freeze_weights, trainable
from rl4vlm.ppo.rescoring import below_float32
from rl4vlm.ppo.rollout import Sample
from rl4vlm.results.provenance import code_revision, hardware, package_versions

PROFILED_TOKENS = 16
TASKS = ("NumberLine", "EZPoints")
"""One game whose prompts repeat often, and one whose images hardly ever repeat."""


def measure(
    settings: Settings, profile_to: Path | None = None, keep: Callable[[dict[str, Any]], None] = lambda result: None
) -> dict[str, Any]:
    """Measure the modes in turn, repeat by repeat, after one warm-up each.

    Args:
        settings: what to measure.
        profile_to: file for a profile of the first mode; None for no profile.
        keep: receives the result before profiling and again after it: profiling may run out of memory.
    """
    device, begun = choose_device(settings.device), time.monotonic()
    ceilings = [measure_ceiling(device, DTYPES[settings.dtype], settings.tiny)]
    lora = LoraSettings(rank=settings.lora_rank, alpha=2.0 * settings.lora_rank) if settings.lora_rank else None
    model = build(
        settings.model,
        dtype=DTYPES[settings.dtype],
        device=device,
        lora=lora,
        max_new_tokens=settings.tokens,
        seed=settings.seed,
    )
    if settings.freeze_vision:
        freeze_weights(model.model, ".*vision_tower.*")
    if settings.gradient_checkpointing:
        model.model.activation_checkpointing_enable()
    modes = [Mode(name, model, settings) for name in settings.modes]
    for mode in modes:
        mode.warm_up()
    found: dict[str, list[Repeat]] = {mode.name: [] for mode in modes}
    for _ in range(settings.repeats):
        if time.monotonic() - begun > settings.seconds and all(found.values()):
            break
        for mode in modes:
            found[mode.name].append(mode.repeat())
    # Measure the ceiling again and use the better result: other processes may have slowed down the first.
    ceilings.append(measure_ceiling(device, DTYPES[settings.dtype], settings.tiny))
    ceiling = Ceiling(max(one.flops for one in ceilings), max(one.bytes for one in ceilings))
    result = {
        "settings": asdict(settings),
        "parameters": sum(weight.numel() for weight in model.model.parameters()),
        "trained": sum(weight.numel() for weight in trainable(model)),
        "ceiling": asdict(ceiling),
        "modes": {mode.name: mode.about() | summary(found[mode.name], ceiling) for mode in modes},
        "ratios": ratios(found),
        "processor_ratios": ratios(found, "processor_seconds"),
        "hours": {name: hours(repeats, name == "ours" and below_float32(model)) for name, repeats in found.items()},
        "profile": None,
        "repeats": {name: [asdict(one) for one in repeats] for name, repeats in found.items()},
    }
    keep(result)
    if profile_to is not None:
        result["profile"] = asdict(profiled(modes[0], profile_to))
        keep(result)
    return result


def profiled(mode: Mode, path: Path) -> Profiled:
    """Profile one step of all environments, with short replies, and two micro-batches of an update.

    Writes the tables to `path`.
    """
    samples: list[Sample] = []
    tables = []
    # Longer replies show the same, and their table takes minutes for a large model.
    mode.model.max_new_tokens, tokens = min(PROFILED_TOKENS, mode.model.max_new_tokens), mode.model.max_new_tokens
    play = profile(lambda: samples.extend(mode.play(count=1)[0]), mode.device)
    mode.model.max_new_tokens = tokens
    some = samples[: 2 * (mode.training.micro_batch_size or len(samples))]
    update = profile(lambda: mode.update(some), mode.device)
    for title, one in (("rollout", play), ("update", update)):
        tables.append(f"{title}, mode {mode.name}\n{one.table}")
    atomic_write_text(path, "\n\n".join(tables))
    tokens = max(len(vlm_item(sample).ids) for sample in samples)
    return Profiled(
        synchronisations_per_token=play.synchronisations / tokens,
        synchronisations_per_sample=update.synchronisations / len(some),
        compiled_graphs=play.compiled + update.compiled,
        synchronising_calls={**play.calls, **{f"update {name}": times for name, times in update.calls.items()}},
    )


def settings_of(arguments: argparse.Namespace) -> Settings:
    """Settings from the command line, with defaults that depend on the model."""
    large = arguments.model == "llava-mistral-7b"
    chosen: dict[str, Any] = {
        "dtype": "bfloat16" if large else "float32",
        "modes": ("ours",) if large else MODES,
        "tokens": 128 if large else 64,
        "num_envs": 64 if large else 32,
        "steps_per_env": 2,
        "micro_batch_size": 8,
        "public_steps": 8,
        "lora_rank": 128 if large else 0,
        "repeats": 3,
        "seconds": 360.0,
    }
    given = {
        name: value for name, value in vars(arguments).items() if value is not None and name in Settings.__annotations__
    }
    made = {**chosen, **given, "task": arguments.task[0]}
    made["modes"] = tuple(made["modes"])
    return Settings(**made)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=sorted(SHAPES), default="llava-23m")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda for a GPU")
    parser.add_argument("--dtype", choices=sorted(DTYPES), help="default float32, large model bfloat16")
    parser.add_argument("--modes", nargs="+", choices=MODES, help="default: both; large model: ours")
    parser.add_argument(
        "--task", nargs="+", default=TASKS, help="the games, one after the other (default: NumberLine EZPoints)"
    )
    parser.add_argument("--tokens", type=int, help="most new tokens per reply (default 64, large model 128)")
    parser.add_argument("--padded", type=int, default=512, help="length that mode public pads replies to")
    parser.add_argument("--num-envs", type=int, help="environments of mode ours (default 32, large model 64)")
    parser.add_argument("--steps-per-env", type=int, help="of a rollout in mode ours (default 2)")
    parser.add_argument("--micro-batch-size", type=int, help="samples per pass in mode ours (default 8)")
    parser.add_argument("--public-steps", type=int, help="steps per rollout in mode public")
    parser.add_argument("--lora-rank", type=int, help="0 trains all weights (default 0, large model 128)")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument(
        "--freeze-vision", action="store_true", help="train no vision tower in mode ours either (default: trained)"
    )
    parser.add_argument("--repeats", type=int, help="measured repeats per mode (default 3)")
    parser.add_argument("--seconds", type=float, help="start no further repeat after this many seconds (default 360)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file for all measurements")
    parser.add_argument("--profile", type=Path, help="file for a profile of mode ours, made after the measurement")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    about = {
        "hardware": hardware(),
        "date": datetime.now(UTC).date().isoformat(),
        "code": code_revision(),
        "packages": package_versions(),
    }

    tasks: dict[str, Any] = {}

    def write(result: dict[str, Any]) -> None:
        if arguments.out is not None:
            atomic_write_text(arguments.out, json.dumps(jsonable(result | about), indent=2) + "\n")

    def keep(result: dict[str, Any]) -> None:
        tasks[result["settings"]["task"]] = result
        write({"tasks": tasks})

    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        told = f"Not run: --device {arguments.device} needs a GPU, and torch sees none here."
        write({"not_run": told})
        print(told)
    else:
        torch.set_num_threads(arguments.threads or hardware()["cores"])
        about["hardware"] = hardware()  # with the threads that were just set
        for task in arguments.task:
            # A profile takes long, so only the first game gets one.
            profile_to = arguments.profile if task == arguments.task[0] else None
            print(table(measure(replace(settings_of(arguments), task=task), profile_to, keep) | about), flush=True)


if __name__ == "__main__":
    main()
