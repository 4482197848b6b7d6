"""Throughput of playing and of learning with a vision-language model: this project's way beside the public code's.

    python benchmarks/throughput.py --out throughput.json
    python benchmarks/throughput.py --device cuda --model llava-mistral-7b --out throughput.json --profile profile.txt

Weights are random, and nothing is downloaded. Prints a Markdown table; docs/throughput.md says how it is
counted. The second call needs a GPU: without one it says that it was not run.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from benchmarks.backbones import SHAPES, build, config_of
from benchmarks.counting import Ceiling, Work, count
from benchmarks.peak import PeakMemory
from benchmarks.profiled import Profiled, profile
from benchmarks.public_way import PublicWay
from benchmarks.rates import MODES, Phase, Repeat, hours, ratios, summary, table
from rl4vlm.config.stages.backbone import LoraSettings
from rl4vlm.config.stages.ppo_training import TrainingSettings
from rl4vlm.core.files import atomic_write_text, jsonable
from rl4vlm.core.types import Style
from rl4vlm.interaction.play import Slot
from rl4vlm.models.actor_critic import ActorCritic
from rl4vlm.models.loading import DTYPES, choose_device
from rl4vlm.models.lora import trainable
from rl4vlm.policies.vlm import VLMPolicy
from rl4vlm.ppo.loop import make_slots
from rl4vlm.ppo.rollout import Sample, compute_advantages, rollout_step
from rl4vlm.ppo.update import PolicyOptimizer, UpdateProgress, below_float32, optimiser_steps
from rl4vlm.results.provenance import code_revision, hardware, package_versions
from rl4vlm.training.optim import fused

PROFILED_TOKENS = 16
THOUGHT_PROB_COEF = 0.5


@dataclass(frozen=True)
class Settings:
    """What is measured; defaults that depend on the device are filled in by `settings_of`.

    A rollout is `envs` environments times `rows` steps in mode `ours`, and `public_steps` steps of one environment in
    mode `public`; each is learned from once, in one optimiser step. `tokens` are generated a reply, `padded` is what
    the public way pads replies to, `seconds` the time after which no further repeat begins.
    """

    model: str
    device: str
    dtype: str
    modes: tuple[str, ...]
    task: str
    tokens: int
    padded: int
    envs: int
    rows: int
    micro_batch: int
    public_steps: int
    lora_rank: int
    gradient_checkpointing: bool
    repeats: int
    seconds: float
    seed: int

    @property
    def tiny(self) -> bool:
        return self.model == "llava-test"


class Mode:
    """One way of playing and learning, with environments and an optimiser of its own."""

    def __init__(self, name: str, model: ActorCritic, settings: Settings) -> None:
        self.name, self.model, self.device = name, model, model.device
        ours = name == "ours"
        self.policy: VLMPolicy = VLMPolicy(model) if ours else PublicWay(model, settings.padded)
        envs, rows = (settings.envs, settings.rows) if ours else (1, settings.public_steps)
        self.training = TrainingSettings(
            total_env_steps=envs * rows,
            num_envs=envs,
            num_steps=envs * rows,
            ppo_epochs=1,
            minibatch_size=envs * rows,
            micro_batch_size=min(settings.micro_batch, envs * rows) if ours else 1,
        )
        self.slots: list[Slot] = make_slots(settings.task, Style.COT, settings.seed, self.training)
        self.counted = count(config_of(model), width=DTYPES[settings.dtype].itemsize, rank=settings.lora_rank)
        optimizer = torch.optim.Adam(trainable(model), lr=1e-5, eps=1e-7, fused=fused(self.device))
        accelerator = Accelerator(cpu=self.device.type == "cpu")
        self.policy_optimizer = PolicyOptimizer(self.policy, model, optimizer, accelerator, THOUGHT_PROB_COEF)

    def repeat(self) -> Repeat:
        """Play, score and learn once."""
        samples, rollout = self.play()
        distinct = len({(id(s.item.prompt)) for s in samples})
        return Repeat(rollout, self.score(samples), self.update(samples), distinct)

    def warm_up(self) -> None:
        """A repeat that is not counted; where a GPU's memory does not do, with ever smaller micro-batches."""
        while True:
            try:
                self.repeat()
                return
            except torch.OutOfMemoryError:
                size = self.training.micro_batch_size or len(self.slots)
                if size == 1:
                    raise
                self.training = replace(self.training, micro_batch_size=size // 2)
                self.policy_optimizer.optimizer.zero_grad()

    def play(self, count: int | None = None) -> tuple[list[Sample], Phase]:
        """A rollout, with advantages, of so many steps of each environment (the settings' unless given)."""
        count = count or self.training.rows

        def rollout() -> list[Sample]:
            steps = [rollout_step(self.slots, self.policy, self.training) for _ in range(count)]
            return compute_advantages(steps, np.zeros(len(self.slots)), self.training).samples

        samples, *taken = self._timed(rollout)
        prompt, reply = tokens_of(samples)
        envs = len(self.slots)
        works = (self.counted.prefill(prompt, envs), self.counted.decode(prompt, reply, envs))
        return samples, phase(samples, [times(work, count) for work in works], *taken)

    def score(self, samples: Sequence[Sample]) -> Phase:
        """Score a rollout again, without gradient."""
        size = self.training.micro_batch_size or len(samples)

        @torch.no_grad()
        def score() -> None:
            self.model.eval()
            for start in range(0, len(samples), size):
                self.policy.rescore(self.model, [sample.item for sample in samples[start : start + size]])

        _, *taken = self._timed(score)
        return phase(samples, [self._batches(samples, self.counted.score)], *taken)

    def update(self, samples: Sequence[Sample]) -> Phase:
        """One epoch over a rollout: one optimiser step, the samples in micro-batches.

        Where an update begins with scoring its samples again (below float32), that is not in it: `score` measures it.
        """
        old = np.array([played(sample) for sample in samples])

        def update() -> None:
            rng = np.random.default_rng(0)
            progress = UpdateProgress(old=old)
            for _ in optimiser_steps(self.policy_optimizer, samples, progress, self.training, rng):
                pass
            self.policy_optimizer.optimizer.zero_grad()

        _, *taken = self._timed(update)
        works = [self._batches(samples, self.counted.update), self.counted.optimiser_step()]
        return phase(samples, works, *taken)

    def about(self) -> dict[str, int | None]:
        """How many environments step together, and how many samples are scored at a time."""
        return {"envs": len(self.slots), "micro_batch": self.training.micro_batch_size}

    def _batches(self, samples: Sequence[Sample], counted: Callable[[float, float, int], Work]) -> Work:
        prompt, reply = tokens_of(samples)
        size = self.training.micro_batch_size or len(samples)
        return times(counted(prompt, reply, size), len(samples) / size)

    def _timed(self, action: Callable[[], Any]) -> tuple[Any, float, float, int | None]:
        """What `action` made, its seconds by the clock and of processor time, and the peak memory."""
        gc.collect()
        with PeakMemory(self.device) as peak:
            synchronise(self.device)
            begun, used = time.perf_counter(), time.process_time()
            made = action()
            synchronise(self.device)
            seconds, used = time.perf_counter() - begun, time.process_time() - used
        return made, seconds, used, peak.bytes


def phase(samples: Sequence[Sample], works: Sequence[Work], seconds: float, used: float, peak: int | None) -> Phase:
    prompt, reply = tokens_of(samples)
    return Phase(seconds, used, len(samples), prompt * len(samples), reply * len(samples), tuple(works), peak)


def played(sample: Sample) -> tuple[float, float, float]:
    """What play found of a sample, in the place of what `rescore_before_update` would."""
    item = sample.item
    log_prob = THOUGHT_PROB_COEF * item.logprob_thoughts + item.logprob_action  # type: ignore[attr-defined]
    return log_prob, item.value, log_prob


def tokens_of(samples: Sequence[Sample]) -> tuple[float, float]:
    """Mean tokens of prompts, the picture's included, and of replies."""
    prompts = [len(sample.item.prompt.input_ids) for sample in samples]  # type: ignore[attr-defined]
    replies = [len(sample.item.ids) for sample in samples]  # type: ignore[attr-defined]
    return statistics.fmean(prompts), statistics.fmean(replies)


def times(work: Work, factor: float) -> Work:
    return Work(work.flops * factor, work.bytes * factor)


def synchronise(device: torch.device) -> None:
    """Wait for the GPU, so that what is timed has been done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_ceiling(device: torch.device, dtype: torch.dtype, tiny: bool = False, tries: int = 5) -> Ceiling:
    """The best of some products of large square matrices, and of some large copies; `tiny` for tests."""
    size, megabytes = (8192, 4096) if device.type == "cuda" else (2048, 256)
    size, megabytes = (128, 1) if tiny else (size, megabytes)
    one, other = (
        torch.randn(size, size, device=device, dtype=dtype),
        torch.randn(size, size, device=device, dtype=dtype),
    )
    source = torch.ones(megabytes * 2**18, device=device)
    target = torch.empty_like(source)

    def best(action: Callable[[], Any]) -> float:
        taken = []
        for _ in range(tries + 1):
            synchronise(device)
            begun = time.perf_counter()
            action()
            synchronise(device)
            taken.append(time.perf_counter() - begun)
        return min(taken[1:])

    product = torch.empty_like(one)
    flops = 2 * size**3 / best(lambda: torch.mm(one, other, out=product))
    return Ceiling(flops, 2 * source.numel() * source.element_size() / best(lambda: target.copy_(source)))


def measure(
    settings: Settings, profile_to: Path | None = None, keep: Callable[[dict[str, Any]], None] = lambda result: None
) -> dict[str, Any]:
    """Measure all modes in turn, repeat by repeat, after one repeat that is not counted.

    `keep` gets the result before the profile is made too, which may fail (on memory, say) where measuring did not.
    """
    device, begun = choose_device(settings.device), time.monotonic()
    ceilings = [measure_ceiling(device, DTYPES[settings.dtype], settings.tiny)]
    lora = LoraSettings(settings.lora_rank, 2.0 * settings.lora_rank) if settings.lora_rank else None
    model = build(
        settings.model,
        dtype=DTYPES[settings.dtype],
        device=device,
        lora=lora,
        max_new_tokens=settings.tokens,
        seed=settings.seed,
    )
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
    # Others may be at work on the machine, too: the best of both counts.
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
    """One step of all environments, with short replies, and two micro-batches of an update, profiled; tables are
    written to `path`."""
    samples: list[Sample] = []
    tables = []
    # A table of whole replies says no more, and takes minutes to make of a large model's.
    mode.model.max_new_tokens, tokens = min(PROFILED_TOKENS, mode.model.max_new_tokens), mode.model.max_new_tokens
    play = profile(lambda: samples.extend(mode.play(count=1)[0]), mode.device)
    mode.model.max_new_tokens = tokens
    some = samples[: 2 * (mode.training.micro_batch_size or len(samples))]
    update = profile(lambda: mode.update(some), mode.device)
    for title, one in (("rollout", play), ("update", update)):
        tables.append(f"{title}, mode {mode.name}\n{one.table}")
    atomic_write_text(path, "\n\n".join(tables))
    tokens = max(len(sample.item.ids) for sample in samples)  # type: ignore[attr-defined]
    return Profiled(
        synchronisations_per_token=play.synchronisations / tokens,
        synchronisations_per_sample=update.synchronisations / len(some),
        compiled_graphs=play.compiled + update.compiled,
        synchronising_calls={**play.calls, **{f"update {name}": times for name, times in update.calls.items()}},
    )


def settings_of(arguments: argparse.Namespace) -> Settings:
    """Settings from the command line; what is not given is chosen for the model."""
    large = arguments.model == "llava-mistral-7b"
    chosen: dict[str, Any] = {
        "dtype": "bfloat16" if large else "float32",
        "modes": ("ours",) if large else MODES,
        "tokens": 128 if large else 64,
        "envs": 64 if large else 16,
        "rows": 2 if large else 1,
        "micro_batch": 4 if large else 2,
        "public_steps": 8,
        "lora_rank": 128 if large else 0,
        "repeats": 3,
        "seconds": 360.0,
    }
    given = {
        name: value for name, value in vars(arguments).items() if value is not None and name in Settings.__annotations__
    }
    made = {**chosen, **given}
    made["modes"] = tuple(made["modes"])
    return Settings(**made)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=sorted(SHAPES), default="llava-23m")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda for a GPU")
    parser.add_argument(
        "--dtype", choices=sorted(DTYPES), help="float32 for the small model, bfloat16 for the large one"
    )
    parser.add_argument("--modes", nargs="+", choices=MODES, help="both for the small model, ours for the large one")
    parser.add_argument("--task", default="EZPoints", help="the game; its pictures hardly ever come again")
    parser.add_argument("--tokens", type=int, help="new tokens of a reply at most: 64 or 128")
    parser.add_argument("--padded", type=int, default=512, help="what the public way pads replies to")
    parser.add_argument("--envs", type=int, help="environments of mode ours: 16 or 64")
    parser.add_argument("--rows", type=int, help="steps of each environment in a rollout: 1 or 2")
    parser.add_argument("--micro-batch", type=int, help="samples that mode ours scores and learns from at a time")
    parser.add_argument("--public-steps", type=int, help="steps of a rollout of mode public")
    parser.add_argument("--lora-rank", type=int, help="0 trains all weights, as the small model does")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--repeats", type=int, help="3; modes take turns")
    parser.add_argument("--seconds", type=float, help="no further repeat begins after so many: 360")
    parser.add_argument("--threads", type=int, help="of the processor; as many as there are cores unless given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write all that was measured there, as JSON")
    parser.add_argument("--profile", type=Path, help="profile mode ours after the measurement; write the tables there")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    about = {
        "hardware": hardware(),
        "date": datetime.now(UTC).date().isoformat(),
        "code": code_revision(),
        "packages": package_versions(),
    }

    def keep(result: dict[str, Any]) -> None:
        if arguments.out is not None:
            atomic_write_text(arguments.out, json.dumps(jsonable(result | about), indent=2) + "\n")

    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        told = f"Not run: --device {arguments.device} needs a GPU, and torch sees none here."
        keep({"not_run": told})
        print(told)
    else:
        torch.set_num_threads(arguments.threads or hardware()["cores"])
        print(table(measure(settings_of(arguments), arguments.profile, keep) | about))


if __name__ == "__main__":
    main()
