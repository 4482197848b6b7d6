"""Which source files a stage is made of, found without importing it.

The workflow lists these files as inputs of a rule, so that an edit reruns the stages that use the edited file and no
other. A module uses what it imports, at any depth and also inside functions, and what it names as `"module:object"` in
order to import it late. Where such a name is the value of a dict literal, the dict is a registry, and the entry counts
only for those who look it up. A module that calls `importlib.resources.files("package")` uses the data files of it.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

_LAZY = re.compile(r"(?P<module>[A-Za-z_]\w*(\.\w+)+):[A-Za-z_]\w*")
"""How an object is named that is imported late: `package.module:object`."""

ENTRY_POINT_GROUPS = ("rl4vlm.tasks",)
"""Entry point groups through which other packages add to a registry."""


@dataclass(frozen=True)
class _References:
    """What one file refers to: modules it imports or names, the entries (key, module) of its registries, and packages
    whose data it reads."""

    modules: tuple[str, ...]
    entries: tuple[tuple[str, str], ...]
    data: tuple[str, ...]


def stage_sources(module: str, choices: Collection[str]) -> list[Path]:
    """The source files that a stage uses.

    Args:
        module: dotted name of the stage's entry module, e.g. `rl4vlm.ppo.train`.
        choices: which registry entries the stage looks up (a task's name, a policy's name); the other entries of the
            registries it imports are not followed. A name that another package registers through an entry point adds
            that package's sources.

    Returns:
        Sorted paths of Python and data files, relative to the working folder where they lie below it.

    Raises:
        ValueError: the module is not there.
    """
    if _file_of(module) is None:
        raise ValueError(f"no module named {module!r}")
    todo = [module, *(target for name, target in _added(tuple(sys.path)) if name in choices)]
    found: dict[str, Path] = {}
    data: set[Path] = set()
    while todo:
        name = todo.pop()
        path = _file_of(name)
        if name in found or path is None:
            continue
        found[name] = path
        references = _references(name, path)
        todo += _packages_above(name)
        todo += references.modules
        todo += [target for key, target in references.entries if key in choices]
        data |= {file for package in references.data for file in _data_files(package)}
    return sorted({_as_shown(path) for path in data.union(found.values())})


@cache
def _added(search_path: tuple[str, ...]) -> list[tuple[str, str]]:
    """Name and module of what the packages on a search path add to registries; reading all their metadata is slow."""
    return [(point.name, point.module) for group in ENTRY_POINT_GROUPS for point in entry_points(group=group)]


def _file_of(module: str) -> Path | None:
    """The file of a module, or None; imports nothing, not even the packages above it."""
    return _located(module, tuple(sys.path))


@cache
def _located(module: str, search_path: tuple[str, ...]) -> Path | None:
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        return None
    origin = Path(spec.origin)
    if not rest:
        return origin
    below = origin.parent.joinpath(*rest)
    candidates = (below.with_suffix(".py"), below / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


def _packages_above(module: str) -> Iterator[str]:
    """Importing `a.b.c` runs `a` and `a.b` first."""
    while "." in module:
        module = module.rpartition(".")[0]
        yield module


@cache
def _references(module: str, path: Path) -> _References:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))))
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    # What others' packages import is not ours to watch: their versions are pinned.
    ours = {__name__.partition(".")[0], module.partition(".")[0]}
    imported = [name for node in nodes for name in _imported(node, package) if name.partition(".")[0] in ours]
    pairs = [pair for node in nodes if isinstance(node, ast.Dict) for pair in zip(node.keys, node.values, strict=True)]
    entries = [
        (str(key.value), name) for key, value in pairs if isinstance(key, ast.Constant) for name in _named(value)
    ]
    in_registry = {id(value) for _, value in pairs}
    named = [name for node in nodes if id(node) not in in_registry for name in _named(node)]
    data = [name for node in nodes for name in _data_packages(node)]
    return _References(tuple(imported + named), tuple(entries), tuple(data))


def _imported(node: ast.AST, package: str) -> list[str]:
    """Modules that an import statement may load; `from a import b` loads `a` and, where it is a module, `a.b`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
        return [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return []


def _named(node: ast.AST) -> list[str]:
    """The module that a string constant names as `"module:object"`."""
    match = _LAZY.fullmatch(node.value) if isinstance(node, ast.Constant) and isinstance(node.value, str) else None
    return [match["module"]] if match else []


def _data_packages(node: ast.AST) -> list[str]:
    """The package in a call `files("package")`."""
    match node:
        case ast.Call(func=ast.Name(id="files"), args=[ast.Constant(value=str(package))]):
            return [package]
    return []


def _data_files(package: str) -> list[Path]:
    initial = _file_of(package)
    if initial is None:
        return []
    return [
        path
        for path in initial.parent.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and not path.name.startswith(".")
    ]


def _as_shown(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
