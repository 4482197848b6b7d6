"""Supervised fine-tuning in float64, as one of the processes that `torchrun` launches; a script for tests.

Usage: torchrun --nproc_per_node N fit_processes.py DATA INIT OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

from rl4vlm.sft.train import SFTSettings, run

# Batches of five of eleven samples, two at a time: nothing divides by anything.
SETTINGS = SFTSettings(
    epochs=1, batch=5, micro_batch=2, learning_rate=1e-3, warmup=0.0, dtype="float64", device="cpu",
    process_timeout=60.0,
)  # fmt: skip

if __name__ == "__main__":
    data, init, out = map(Path, sys.argv[1:])
    run(data=data, init=init, out=out, settings=SETTINGS)
