"""Digest of the code that a stage runs, found without importing that code.

Snakemake sees a rule's shell command but not the Python package behind it. Each rule therefore passes the digest of its
stage's code as a param: a job is stale when the digest has changed. The digest covers what the code does and not how it
is written. An edit of a comment, a docstring or a line break leaves it as it is, and so does another Python version.

The code of a stage is its entry module and, repeatedly:
- every module that one of these modules imports, also inside functions;
- every module that a string `"module:object"` names, which is how an object is named in order to import it late. Inside
  the value of a dict literal, such a name belongs to a registry entry. It counts only for stages that look the key up;
- the data files of every package that is read by `importlib.resources.files("package")`.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

_LAZY = re.compile(r"(?P<module>[A-Za-z_]\w*(\.\w+)+):[A-Za-z_]\w*")
"""The form of the name of an object that is imported late: `package.module:object`."""

ENTRY_POINT_GROUPS = ("rl4vlm.tasks",)
"""Entry point groups through which other packages add entries to a registry."""

REGISTRIES = frozenset({"rl4vlm.config.scripted"})
"""Modules of which a stage uses only the rows that it looks up. The digest leaves out all other entries of their dict
literals, so a new row repeats nothing that exists."""

_NOT_CODE = frozenset({"ctx", "kind", "type_comment", "type_ignores"})
"""Fields of syntax nodes that follow from the place of the node (`ctx`) or change nothing at run time."""


def code_digest(module: str, choices: Collection[str]) -> str:
    """The digest of all the code that a stage runs, to be passed as a param of its rule.

    Args:
        module: dotted name of the stage's entry module, e.g. `rl4vlm.ppo.train`.
        choices: keys of the registry entries that the stage looks up, e.g. the name of its task.

    Returns:
        SHA-256 in hexadecimal.

    Raises:
        ValueError: there is no such module.
    """
    lines = [f"{name} {digest}\n" for name, digest in module_digests(module, choices).items()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def module_digests(module: str, choices: Collection[str]) -> dict[str, str]:
    """The digest of each module and each data file that a stage runs or reads.

    Args:
        module: dotted name of the stage's entry module, e.g. `rl4vlm.ppo.train`.
        choices: keys of the registry entries that the stage looks up. Other entries of the same registries are not
            followed. A key that another package registers through an entry point adds the code of that package.

    Returns:
        SHA-256 in hexadecimal by name, sorted: of the syntax tree of a module (`rl4vlm.ppo.losses`), of the bytes of a
        data file (`rl4vlm.gallery/page.html`).

    Raises:
        ValueError: there is no such module.
    """
    if _file_of(module) is None:
        raise ValueError(f"no module named {module!r}")
    todo = [module, *(target for name, target in _added_entries(tuple(sys.path)) if name in choices)]
    digests: dict[str, str] = {}
    packages: set[str] = set()
    while todo:
        name = todo.pop()
        path = _file_of(name)
        if name in digests or path is None:
            continue
        code = _read(name, path)
        digests[name] = _digest_of_rows(path, choices) if name in REGISTRIES else code.digest
        packages |= code.data_packages
        todo += [*_parent_packages(name), *code.modules]
        todo += [target for keys, target in code.entries if not keys.isdisjoint(choices)]
    for package in packages:
        if initial := _file_of(package):
            digests |= _data_digests(package, initial.parent)
    return dict(sorted(digests.items()))


def tree_digest(tree: ast.Module) -> str:
    """SHA-256 of the syntax tree of a module, without docstrings, comments and formatting.

    `ast.dump` would not do: what it prints differs between Python versions (empty fields, fields that a version added,
    the pieces of an f-string). Here a node is its name and those of its fields that hold something, in the order of
    their names.
    """
    # `ascii`, since `repr` leaves a character as it is or not by the version's table of printable characters.
    return hashlib.sha256(ascii(_canonical(tree)).encode()).hexdigest()


def _canonical(node: object) -> object:
    """A syntax node as nested tuples that are the same on every Python version."""
    if isinstance(node, ast.JoinedStr):
        return ("JoinedStr", *_fstring_parts(node))
    if isinstance(node, ast.AST):
        fields = [(name, getattr(node, name, None)) for name in sorted(node._fields) if name not in _NOT_CODE]
        # `type_params` exists from Python 3.12 on; it is empty in code that all supported versions can read.
        return (type(node).__name__, *((name, _canonical(value)) for name, value in fields if value not in (None, [])))
    if isinstance(node, list):
        return tuple(_canonical(item) for item in node if not _does_nothing(item))
    return node


def _fstring_parts(node: ast.JoinedStr) -> Iterator[object]:
    """The parts of an f-string. Versions differ in how they cut its fixed text, so neighbouring pieces are joined."""
    text = ""
    for part in node.values:
        if isinstance(part, ast.Constant):
            text += str(part.value)
            continue
        if text:
            yield text
        text = ""
        yield _canonical(part)
    if text:
        yield text


def _does_nothing(node: object) -> bool:
    """Whether this is a statement without effect: `pass`, `...`, or a string, as under a `def` or below a field."""
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


@dataclass
class _References(ast.NodeVisitor):
    """Collects what a module refers to.

    Attributes:
        package: the package that relative imports start from.
        modules: modules that are imported, or named outside of any registry.
        entries: the keys of a registry entry (several if dict literals are nested) and a module that its value names.
        data_packages: packages whose data files are read.
    """

    package: str
    modules: set[str] = field(default_factory=set)
    entries: list[tuple[frozenset[str], str]] = field(default_factory=list)
    data_packages: set[str] = field(default_factory=set)
    _keys: frozenset[str] = frozenset()

    def visit_Import(self, node: ast.Import) -> None:
        self.modules |= {alias.name for alias in node.names}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = importlib.util.resolve_name("." * node.level + (node.module or ""), self.package)
        # `from a import b` loads `a`, and `a.b` if that is a module.
        self.modules |= {base, *(f"{base}.{alias.name}" for alias in node.names)}

    def visit_If(self, node: ast.If) -> None:
        # What only a type checker imports never runs.
        types_only = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for child in [node.test, *([] if types_only else node.body), *node.orelse]:
            self.visit(child)

    def visit_Dict(self, node: ast.Dict) -> None:
        outer = self._keys
        for key, value in zip(node.keys, node.values, strict=True):
            # Without a literal key there is nothing to look the value up by: it counts for every stage.
            self._keys = outer | {str(key.value)} if isinstance(key, ast.Constant) else outer
            self.visit(value)
        self._keys = outer

    def visit_Constant(self, node: ast.Constant) -> None:
        match = _LAZY.fullmatch(node.value) if isinstance(node.value, str) else None
        if match and self._keys:
            self.entries.append((self._keys, match["module"]))
        elif match:
            self.modules.add(match["module"])

    def visit_Call(self, node: ast.Call) -> None:
        match node:
            case ast.Call(ast.Name(id="files") | ast.Attribute(attr="files"), [ast.Constant(value=str(name))]):
                self.data_packages.add(name)
        self.generic_visit(node)


@dataclass(frozen=True)
class _Code:
    """One module: the digest of its syntax tree, and what it refers to (see `_References`)."""

    digest: str
    modules: tuple[str, ...]
    entries: tuple[tuple[frozenset[str], str], ...]
    data_packages: frozenset[str]


@cache
def _read(module: str, path: Path) -> _Code:
    """Parse a module, once per process: a dry run asks for the same modules in a hundred jobs."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    references = _References(module if path.name == "__init__.py" else module.rpartition(".")[0])
    references.visit(tree)
    # Modules of third-party packages are not followed: their versions are pinned.
    own = {__name__.partition(".")[0], module.partition(".")[0]}
    return _Code(
        digest=tree_digest(tree),
        modules=tuple(sorted(name for name in references.modules if name.partition(".")[0] in own)),
        entries=tuple(references.entries),
        data_packages=frozenset(references.data_packages),
    )


class _LookedUp(ast.NodeTransformer):
    """Leaves out the entries of dict literals whose keys a stage does not look up."""

    def __init__(self, choices: Collection[str]) -> None:
        self.choices = choices

    def visit_Dict(self, node: ast.Dict) -> ast.Dict:
        entries = zip(node.keys, node.values, strict=True)
        # Without a literal key, as in `**more`, an entry may be any row: it counts for every stage.
        kept = [entry for entry in entries if not isinstance(entry[0], ast.Constant) or entry[0].value in self.choices]
        return ast.Dict([key for key, _ in kept], [value for _, value in kept])


def _digest_of_rows(path: Path, choices: Collection[str]) -> str:
    """The digest of a registry with only those of its rows that a stage looks up."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    return tree_digest(_LookedUp(choices).visit(tree))


@cache
def _data_digests(package: str, folder: Path) -> dict[str, str]:
    """The digest of each data file of a package in `folder`, by the names of both: `rl4vlm.gallery/page.html`."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    return {
        f"{package}/{path.relative_to(folder).as_posix()}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        # A README explains the files beside it; no stage reads it.
        if path.name != "README.md" and not path.name.startswith(".")
    }


@cache
def _added_entries(search_path: tuple[str, ...]) -> list[tuple[str, str]]:
    """Key and module of each registry entry that the packages on a search path add. Reading their metadata is slow."""
    return [(point.name, point.module) for group in ENTRY_POINT_GROUPS for point in entry_points(group=group)]


def _file_of(module: str) -> Path | None:
    """The file of a module, or None if there is none. Imports nothing, not even the packages above the module."""
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


def _parent_packages(module: str) -> Iterator[str]:
    """`a.b` and `a` for `a.b.c`: Python runs both before it runs the module."""
    while "." in module:
        module = module.rpartition(".")[0]
        yield module
