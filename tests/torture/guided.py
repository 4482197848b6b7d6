"""Coverage-guided fuzzing of the parsers with atheris: `python -m tests.torture.guided TARGET RUNS CORPUS`.

Atheris instruments modules as they are imported, so it needs a process of its own. It keeps inputs that reach new code
in the folder CORPUS, and changes those further. The process ends with an error at the first input that fails.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

INSTRUMENTED = ["rl4vlm.interaction", "rl4vlm.policies.api.messages", "rl4vlm.tasks"]
TARGETS = ("replies", "answers of endpoints", "formulas")


def main(target: str, runs: str, corpus: str) -> None:
    """Run until `runs` inputs have been tried."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        from tests.torture import test_formulas as formulas
        from tests.torture import test_parsers as parsers

    # A provider takes numbers from the end of its bytes, so a seed stays the text that it is.
    def text(data: Any) -> str:
        taken: bytes = data.ConsumeBytes(data.remaining_bytes())
        return taken.decode("utf-8", "replace")

    def reply(data: Any) -> None:
        game = parsers.GAMES[data.ConsumeIntInRange(0, len(parsers.GAMES) - 1)]
        parsers.check(text(data), game)

    def answer(data: Any) -> None:
        status = (200, 400, 429, 500)[data.ConsumeIntInRange(0, 3)]
        parsers.check_answer(status, text(data))

    def formula(data: Any) -> None:
        picked = data.ConsumeBytes(data.remaining_bytes())
        formulas.check_exact([formulas.ITEMS[byte % len(formulas.ITEMS)] for byte in picked[:9]])
        formulas.python_value("".join("0123456789+-*/() ."[byte % 18] for byte in picked))

    checks: dict[str, Callable[[Any], None]] = dict(zip(TARGETS, (reply, answer, formula), strict=True))
    seeds = {TARGETS[0]: parsers.REPLIES, TARGETS[1]: parsers.ANSWERS}.get(target, [])
    for number, seed in enumerate(seeds):
        Path(corpus, f"seed-{number}").write_bytes(seed.encode("utf-8", "surrogatepass") + b"\0")
    check = checks[target]
    atheris.Setup(
        [sys.argv[0], f"-atheris_runs={runs}", "-seed=1", "-len_control=0", "-max_len=600", corpus],
        lambda data: check(atheris.FuzzedDataProvider(data)),
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
