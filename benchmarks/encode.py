"""Encoding images with the processor and with the encoder's fast path: the same tensors, and how fast?

    python -m benchmarks.encode

Each round encodes the first images of `IMAGES` EZPoints deals both ways, on one thread: first all images with one
prompt, as at the start of an episode, then each with a prompt of its own, as later in a hand.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

from rl4vlm.core.types import Style
from rl4vlm.envs.registration import make_env
from rl4vlm.interaction.prompt import render
from rl4vlm.models.encode import Encoded, Encoder
from rl4vlm.models.loading import load_backbone
from rl4vlm.tasks.registry import get_task

CHECKPOINT = Path(__file__).parents[1] / "workflow" / "resources" / "base_model" / "cards"
IMAGES, ROUNDS = 64, 5


def deals() -> list[tuple[np.ndarray, str]]:
    """Images with their prompts."""
    env, task = make_env("EZPoints"), get_task("EZPoints")
    images = [env.reset(seed=seed)[0] for seed in range(IMAGES)]
    return [(image, render(task.prompt, env.view(), Style.COT)) for image in images]


def milliseconds(encode: Callable[[np.ndarray, str], Encoded], given: list[tuple[np.ndarray, str]]) -> float:
    """CPU time per image."""
    begun = time.process_time()
    for image, prompt in given:
        encode(image, prompt)
    return (time.process_time() - begun) / len(given) * 1000


def main() -> None:
    """Print the median times and their ratio; fails if a tensor differs."""
    torch.set_num_threads(1)
    processor = load_backbone(CHECKPOINT).processor
    fast, slow = Encoder(processor, cache_size=1), Encoder(processor, cache_size=1)
    assert fast.fast is not None
    slow.fast = None
    first = deals()
    varied = [(image, f"{prompt} {number}") for number, (image, prompt) in enumerate(first)]
    for name, given in {"one prompt": first, "a prompt each": varied}.items():
        for one, other in zip(*([encoder.prompt(*deal) for deal in given] for encoder in (fast, slow)), strict=True):
            assert torch.equal(one.input_ids, other.input_ids)
            assert torch.equal(one.images["pixel_values"], other.images["pixel_values"])
        rounds = []
        for _ in range(ROUNDS):
            if given is varied:
                # Each round must tokenise its prompts again.
                fast.fast.input_ids.cache_clear()
            rounds.append((milliseconds(slow.prompt, given), milliseconds(fast.prompt, given)))
        theirs, ours, ratio = (median(column) for column in zip(*((a, b, a / b) for a, b in rounds), strict=True))
        print(f"{name}: processor {theirs:.2f} ms, fast path {ours:.2f} ms per image, ratio {ratio:.1f}")


if __name__ == "__main__":
    main()
