"""docs/rules.md: the table of rules, the picture of how they hang together, and their commands."""

from __future__ import annotations

import os
from pathlib import Path

from rl4vlm.core.files import atomic_write_text
from rl4vlm.rulepage.graph import draw, reduced
from rl4vlm.rulepage.read import RuleText, Variant, Workflow, grouped, read_workflow

VARIANTS = (
    Variant(),
    Variant(settings={"base_model": {"defaults": {"source": "pretrain"}}}),
    Variant(settings={"base_model": {"defaults": {"source": "a-name/on-the-hub"}}}),
    Variant(overlays=(Path("config", "alfworld.yaml"),)),
)
"""The configs whose rules and links the page has: the default, then what it leaves out."""


def write_page(*, out: Path, image: Path) -> None:
    """Write the page and the picture about the workflow of the working folder.

    Raises ValueError where the workflow cannot be read, or a rule does not say what it does.
    """
    workflow = read_workflow(Path("workflow", "Snakefile"), VARIANTS)
    labels = {rule.names[0]: "\n".join(rule.names) for rule in workflow.rules}
    draw(
        [(needed, rule) for rule, needed in workflow.needs],
        labels,
        dashed=[name for name in labels if name not in workflow.targets],
        out=image,
    )
    atomic_write_text(out, page(workflow, os.path.relpath(image, out.parent)))


def page(workflow: Workflow, image: str) -> str:
    """The page as Markdown."""
    sections = [
        "# The rules",
        "Made from the Snakefile by `make docs`: edit the rules, not this page.",
        f"![Which rule needs which]({image})",
        "From left to right: what is made first. An arrow that follows from others is left out, and what `all` does\n"
        "not ask for has a dashed frame. `snakemake --rulegraph` has every arrow, `snakemake --dag` every job\n"
        "([sharing.md](sharing.md)).",
        _table(workflow),
        "Resources are those of the default config, where `resources` sets them by stage: threads, MB of memory,\n"
        "minutes, and GPUs if any. Every rule's inputs are also the source files of its stage, so that an edit makes\n"
        "just those results stale ([why](decisions/0002-sources-as-inputs.md)), and every rule has a log in\n"
        "`results/logs/`. `results/` stands for the config's `results_dir`. A base model is made (`base_model`),\n"
        "copied (`shipped_model`), downloaded (`download`; all of those by `prefetch`) or used where it is, as its\n"
        "source says. What a rule needs is said by names, so any of these has the needs of all.",
        "## Commands",
        "What a job runs, the names in braces filled in; `snakemake -n -p` prints them filled in.",
        *(_command(rule) for rule in workflow.rules),
    ]
    return "\n\n".join(sections) + "\n"


def _table(workflow: Workflow) -> str:
    rows = ["| rule | what it does | needs | writes | resources | command |", "|---|---|---|---|---|---|"]
    needs = reduced((needed, rule) for rule, needed in workflow.needs)
    names = {rule.names[0]: rule.names for rule in workflow.rules}
    for rule in workflow.rules:
        needed = [name for name in names if (name, rule.names[0]) in needs]
        cells = [
            "<br>".join(f"`{name}`" for name in rule.names),
            rule.does + (" May be shared between workflows." if rule.shared else ""),
            ", ".join(f"`{name}`" for first in needed for name in names[first]),
            "<br>".join(_outputs(rule)),
            _resources(rule),
            f"`{subcommand(rule.command)}`",
        ]
        rows.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(rows)


def _outputs(rule: RuleText) -> list[str]:
    """Files by folder, those of a name that differ in the suffix alone together."""
    lines = []
    for folder, files in grouped(rule.outputs).items():
        kinds: dict[str, list[str]] = {}
        for file in files:
            stem, dot, suffix = file.partition(".")
            kinds.setdefault(stem, []).append(dot + suffix)
        shown = [f"`{stem}{ends[0]}`" + "".join(f" `{end}`" for end in ends[1:]) for stem, ends in kinds.items()]
        lines.append(f"`{folder}/`: " + ", ".join(shown))
    return lines


def _resources(rule: RuleText) -> str:
    asked = rule.resources
    threads = asked.get("_cores", 1)
    parts = [f"{threads} thread{'s' if threads > 1 else ''}"]
    parts += [f"{asked['mem_mb']} MB"] if "mem_mb" in asked else []
    parts += [f"{asked['runtime']} min"] if "runtime" in asked else []
    parts += [f"{asked['gpu']} GPU"] if asked.get("gpu") else []
    return ", ".join(parts)


def subcommand(command: str) -> str:
    """`rl4vlm <stage>` of a shell line."""
    words = command.replace("{params.rl4vlm}", "rl4vlm").split()
    return " ".join(words[:2])


def _command(rule: RuleText) -> str:
    names = ", ".join(f"`{name}`" for name in rule.names)
    return f"{names} ([{rule.file}](../workflow/{rule.file}))\n\n```\n{rule.command.partition(' 2>&1')[0]}\n```"
