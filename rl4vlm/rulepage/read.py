"""What the rules of a Snakefile say of themselves, and how they depend on each other."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

RESOURCES = ("_cores", "mem_mb", "runtime", "gpu")
"""What jobs ask for: threads, megabytes, minutes and GPUs."""


@dataclass(frozen=True)
class RuleText:
    """One definition of the Snakefile, which may stand for several rules that differ in a name.

    `file` and `line` are where it is. `does` is its docstring, or else the comment above it. `outputs` are patterns,
    wildcards in braces. `resources` are what a job asks for under the config read first. `command` is its shell line,
    placeholders unfilled. `shared`: may come out of a cache between workflows.
    """

    names: tuple[str, ...]
    file: str
    line: int
    does: str
    outputs: tuple[str, ...]
    resources: Mapping[str, int]
    command: str
    shared: bool


@dataclass(frozen=True)
class Workflow:
    """The rules of a workflow under all its configs.

    `needs` are pairs of definitions, by their first names: who needs whose output. `targets` are those that the default
    target asks for, directly or not.
    """

    rules: tuple[RuleText, ...]
    needs: frozenset[tuple[str, str]]
    targets: frozenset[str]


@dataclass(frozen=True)
class Variant:
    """A config: files that overlay the workflow's own, and settings over those."""

    overlays: tuple[Path, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


def read_workflow(snakefile: Path, variants: Sequence[Variant]) -> Workflow:
    """Read a Snakefile under several configs, since the config decides which rules there are.

    Raises ValueError where Snakemake refuses the workflow, and names a rule of which nothing says what it does.
    """
    texts: dict[tuple[str, int], RuleText] = {}
    links: set[tuple[str, str]] = set()
    wanted: set[str] = set()
    for variant in variants:
        rules = _rules(snakefile, variant)
        for text in (_text(rule, snakefile) for rule in rules if rule.shellcmd):
            known = texts.setdefault((text.file, text.line), text)
            if text.names[0] not in known.names:
                texts[text.file, text.line] = _named_also(known, text.names[0])
        asked_by_name = [rule.name for rule in rules if rule.shellcmd and not rule.has_wildcards()]
        edges = _rule_graph(snakefile, variant, asked_by_name)
        links |= edges
        wanted |= _behind(_default_target(rules), edges)
    files = [file for file, _ in texts]
    first = {name: text.names[0] for text in texts.values() for name in text.names}
    return Workflow(
        rules=tuple(sorted(texts.values(), key=lambda text: (files.index(text.file), text.line))),
        needs=frozenset((first[a], first[b]) for a, b in links if a in first and b in first and first[a] != first[b]),
        targets=frozenset(first[name] for name in wanted if name in first),
    )


def _rules(snakefile: Path, variant: Variant) -> list[Any]:
    """Snakemake's own rule objects, in the order of their definition."""
    from snakemake.api import SnakemakeApi
    from snakemake.exceptions import WorkflowError
    from snakemake.settings.types import ConfigSettings, OutputSettings, Quietness, ResourceSettings

    try:
        with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
            workflow = api.workflow(
                resource_settings=ResourceSettings(cores=1),
                config_settings=ConfigSettings(configfiles=variant.overlays, config=variant.settings),
                snakefile=snakefile,
            )
            # No public call hands out the rules; Snakemake's version is pinned, and a test reads this page.
            return list(workflow._workflow.rules)
    except WorkflowError as error:
        raise ValueError(f"{snakefile} cannot be read: {error}") from error


def _text(rule: Any, snakefile: Path) -> RuleText:
    from snakemake.io import strip_wildcard_constraints

    source = rule.snakefile
    path = source if isinstance(source, str) else source.get_path_or_uri(secret_free=True)
    file = Path(path)
    # Snakemake counts the lines of the Python that it made of the file.
    line = rule.workflow.linemaps[path][rule.lineno]
    lines = file.read_text(encoding="utf-8").splitlines()
    does = " ".join((rule.docstring or _comment_above(lines, line)).split())
    if not does:
        raise ValueError(f"{file}, line {line}: rule {rule.name} has neither a docstring nor a comment above it")
    return RuleText(
        names=(rule.name,),
        file=file.resolve().relative_to(snakefile.resolve().parent).as_posix(),
        line=line,
        does=does,
        outputs=tuple(strip_wildcard_constraints(str(item)) for item in rule.output),
        resources={name: int(rule.resources[name].value) for name in RESOURCES if name in rule.resources},
        command=rule.shellcmd.strip(),
        shared=bool(rule.cache and rule.cache.output),
    )


def _named_also(text: RuleText, name: str) -> RuleText:
    """The same definition under one name more: its outputs are patterns of the name."""
    outputs = tuple(item.replace(text.names[0], "{name}") for item in text.outputs)
    return replace(text, names=(*text.names, name), outputs=outputs)


def _comment_above(lines: Sequence[str], line: int) -> str:
    """The comment that ends right above a line, counted from 1; empty where there is none."""
    found: list[str] = []
    for text in reversed(lines[: line - 1]):
        if not text.strip().startswith("#"):
            break
        found.append(text.strip().lstrip("# "))
    return " ".join(reversed(found))


def _default_target(rules: Iterable[Any]) -> str:
    return next((rule.name for rule in rules if rule.workflow.default_target == rule.name), "all")


def _rule_graph(snakefile: Path, variant: Variant, targets: Sequence[str]) -> set[tuple[str, str]]:
    """Which rule needs which, for the default target and these."""
    command = [sys.executable, "-m", "snakemake", "all", *targets, "--snakefile", str(snakefile), "--rulegraph", "dot"]
    command += ["--forceall", "--cores", "1"]
    command += ["--configfile", *map(str, variant.overlays)] if variant.overlays else []
    words = [f"{key}={json.dumps(value)}" for key, value in variant.settings.items()]
    command += ["--config", *words] if words else []
    done = subprocess.run([*command, "--workflow-profile", "none"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ValueError(f"{snakefile} has no rule graph: {done.stderr.strip()[-2000:]}")
    return rule_links(done.stdout)


def rule_links(dot: str) -> set[tuple[str, str]]:
    """Pairs (rule, rule that it needs) of a rule graph in graphviz's language, as Snakemake prints it."""
    names = dict(re.findall(r'^\s*(\d+)\[label = "([^"]+)"', dot, flags=re.MULTILINE))
    edges = re.findall(r"^\s*(\d+) -> (\d+)\s*$", dot, flags=re.MULTILINE)
    return {(names[after], names[before]) for before, after in edges}


def _behind(target: str, links: Iterable[tuple[str, str]]) -> set[str]:
    links = set(links)
    found, todo = set[str](), [target]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += [needed for rule, needed in links if rule == name]
    return found


def grouped(outputs: Sequence[str]) -> dict[str, list[str]]:
    """The files of an output list by their folder, in order."""
    folders: dict[str, list[str]] = {}
    for output in outputs:
        path = PurePosixPath(output)
        folders.setdefault(str(path.parent), []).append(path.name)
    return folders
