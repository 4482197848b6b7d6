"""Checks PPO on a GPU and measures it: correctness, memory, throughput, and how often the CPU waits for the GPU.

    python -m benchmarks.gpu_check            # everything that fits into five minutes on an H100
    python -m benchmarks.gpu_check --correctness --memory

Run it in the repository's root, with any Python that has the packages of `gpu_needs.py`; the project itself need not be
installed, and no network is needed. Weights are random, with the shapes of LLaVA-1.6-mistral-7B. Without a GPU it runs
on tiny shapes, as a test of the script itself, and the page says that it measured a CPU.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu_needs import NEEDS, complaints, install_wheels, installed

PARTS = ("correctness", "memory", "throughput", "profile")
PAGE, LINES, TABLES = "gpu-check.md", "gpu-check.jsonl", "profile.txt"


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in PARTS:
        parser.add_argument(
            f"--{name}", action="append_const", dest="parts", const=name, help=f"only {name}; several add up"
        )
    parser.add_argument("--model", help="shapes to measure (default: llava-mistral-7b on a GPU, llava-test on a CPU)")
    parser.add_argument("--tokens", type=int, help="tokens of a reply (default: 128 on a GPU, 6 on a CPU)")
    parser.add_argument("--more", action="store_true", help="float32 as well, which takes several minutes more")
    parser.add_argument("--seconds", type=float, default=240.0, help="begin no measurement after this time")
    parser.add_argument(
        "--out", type=Path, default=Path("results", "gpu-check"), help="folder of the page and its lines"
    )
    parser.add_argument(
        "--wheels",
        type=Path,
        default=Path(".wheels"),
        help="folder of wheels of packages that may be missing (make gpu-wheels)",
    )
    return parser.parse_args(argv)


def run_parts(arguments: argparse.Namespace, keep: Callable[[dict[str, Any]], None]) -> None:
    """Run the parts that were asked for. `keep` gets each line of results at once; the first is about the machine."""
    # Imported here, since `main` must first say which packages are missing.
    import torch

    from benchmarks.gpu_correct import correctness
    from benchmarks.gpu_speed import choices, measure, not_measured
    from rl4vlm.models.older_transformers import accept_older_names
    from rl4vlm.results.provenance import code_revision, hardware

    accept_older_names()
    begun = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    large = device.type == "cuda"
    shape = arguments.model or ("llava-mistral-7b" if large else "llava-test")
    tokens, parts = arguments.tokens or (128 if large else 6), arguments.parts or PARTS
    keep(
        {
            "part": "about",
            "device": device.type,
            "model": shape,
            "tokens": tokens,
            "hardware": hardware(),
            "packages": {"python": sys.version.split()[0], **{name: installed(name) for name in NEEDS}},
            "code": code_revision(),
            "date": datetime.now(UTC).isoformat(timespec="minutes"),
        }
    )

    def guarded(part: str, lines: Callable[[], Iterator[dict[str, Any]]]) -> None:
        try:
            for line in lines():
                keep(line)
        # Time on a GPU is scarce: report what fails, and continue with the next part.
        except Exception as error:
            keep({"part": part, "error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()})

    if "correctness" in parts:
        for dtype in ("float32", "bfloat16"):
            guarded("correctness", partial(correctness, "llava-23m" if large else "llava-test", dtype, device))
    # On a CPU a few choices are enough to test the script.
    asked = choices(128, 64, arguments.more) if large else [choices(4, 4)[index] for index in (0, 2, 4, -4, -3, -1)]
    if "throughput" in parts:
        guarded("throughput", not_measured)
    else:
        asked = asked[: bool({"memory", "profile"} & {*parts})]
    tables = arguments.out / TABLES if "profile" in parts else None
    guarded(
        "throughput",
        lambda: measure(shape, device, asked, tokens, lambda: time.monotonic() - begun > arguments.seconds, tables),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 if every check passed, 1 if one did not or could not be made, 2 if a package is missing or too old."""
    arguments = parse(argv)
    if complaints():
        install_wheels(arguments.wheels)
    if lacking := complaints():
        print("gpu-check cannot run here: " + "; ".join(lacking), file=sys.stderr)
        print(
            f"without a network: make gpu-wheels where there is one, and copy {arguments.wheels} here", file=sys.stderr
        )
        return 2
    from benchmarks.gpu_page import failed, page
    from rl4vlm.core.files import JsonLines, atomic_write_text

    begun, lines = time.monotonic(), list[dict[str, Any]]()
    with JsonLines(arguments.out / LINES) as file:

        def keep(line: dict[str, Any]) -> None:
            lines.append(line)
            lines[0]["seconds"] = time.monotonic() - begun
            file.write(line)
            # The page is written again after every line: a job on a GPU may be stopped at any time.
            atomic_write_text(arguments.out / PAGE, page(lines))
            print({name: value for name, value in line.items() if name != "traceback"}, flush=True)

        run_parts(arguments, keep)
    print(f"\n{page(lines)}\nwritten to {arguments.out}")
    return int(failed(lines))


if __name__ == "__main__":
    sys.exit(main())
