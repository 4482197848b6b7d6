"""Writes docs/reliability.md from records: `python -m tests.torture.page RECORDS... > docs/reliability.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rl4vlm.core.files import read_json_lines

INTRO = """\
# Reliability

Written by `make torture` from the records of its checks: edit `tests/torture/`, not this page.

Each row is one check of `tests/torture/`: what was tried, how often, and what happened. The tests of every change run
most of the checks with few inputs, `make torture` all with many: up to a million per check, or the share of that in
`RL4VLM_TORTURE`. The end of the page lists the runs with their shares. Random inputs come from hypothesis, from seeded
mutations of real inputs, and from atheris, which evolves inputs that reach new code (only in `make torture`, if atheris
can be installed). *Not recorded* means that no `run.json` has a checksum of the file. If a check failed, its row begins
with the failures and their kind. Seconds are wall-clock time on machines that may also have done other work.
"""


def page(records: Iterable[Mapping[str, Any]]) -> str:
    """The page, with the last record of each check: a check that was run again replaces its earlier row."""
    last = {(record["area"], record["what"]): record for record in records}
    lines = [INTRO]
    for area in dict.fromkeys(area for area, _ in last):
        lines += [f"## {area}", "", "| what was tried | how often | what happened | seconds |", "|---|--:|---|--:|"]
        lines += [_row(what, record) for (section, what), record in last.items() if section == area]
        lines.append("")
    inputs = sum(record["inputs"] for record in last.values())
    failures = sum(sum(record["failures"].values()) for record in last.values())
    lines.append(f"Attempts: {inputs:,}. Failures: {failures:,}.\n")
    runs = dict.fromkeys(
        f"{record['date']}, version {record['version']} ({(record['revision'] or 'no checkout')[:7]}), "
        f"{record['cores']} cores of {record['processor']}, {record['share']:.0%} of the long form"
        for record in last.values()
    )
    lines += ["The runs:", "", *(f"- {run}" for run in runs)]
    return "\n".join(lines) + "\n"


def _row(what: str, record: Mapping[str, Any]) -> str:
    ended = [f"{times:,} {outcome}" for outcome, times in record["outcomes"].items()]
    failed = [f"**{times:,} failed: {kind}**" for kind, times in record["failures"].items()]
    return f"| {what} | {record['inputs']:,} | {'; '.join([*failed, *ended])} | {record['seconds']:,.0f} |"


if __name__ == "__main__":
    print(page(record for file in sys.argv[1:] for _, record in read_json_lines(Path(file))), end="")
