"""The digest of a stage's code: no edit of its meaning may be missed, and no other edit may change it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from rl4vlm.config.code_digest import REGISTRIES, code_digest, module_digests, tree_digest
from rl4vlm.tasks.registry import task_names

ROOT = Path(__file__).parents[2]

FILES = {
    "toy/__init__.py": "",
    "toy/stage.py": "from toy.tools import helper\nfrom .games import registry\n",
    "toy/tools.py": "def helper():\n    from toy.late import thing\n    return thing\n",
    "toy/late.py": "import toy.deep.inner\n",
    "toy/deep/__init__.py": "from toy.deep import beside\n",
    "toy/deep/beside.py": "",
    "toy/deep/inner.py": "import os, json\n",
    "toy/games/__init__.py": "",
    "toy/games/registry.py": (
        'GAMES = {"chess": "toy.games.chess:Chess", "go": Row("toy.games.go:Go", players=(2, "toy.pairs:Pairs"))}\n'
        'SETS = {"board": {"draughts": "toy.games.draughts:Draughts"}, KEY: "toy.games.anything:Anything"}\n'
    ),
    "toy/games/anything.py": "",
    "toy/games/chess.py": 'class Chess:\n    entry_point = "toy.board:Board"\n',
    "toy/games/draughts.py": "",
    "toy/games/go.py": "import toy.stones\n",
    "toy/board.py": "",
    "toy/pairs.py": "",
    "toy/stones.py": "",
    "toy/facts.py": 'from importlib.resources import files\nfiles("toy.deep").joinpath("numbers.csv")\n',
    "toy/more_facts.py": 'from importlib import resources\nresources.files("toy.deep")\n',
    "toy/deep/numbers.csv": "",
    "toy/deep/README.md": "",
    "toy/typed.py": (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import toy.stage\nelse:\n    import toy.board\n"
    ),
    "toy/unused.py": "import toy.stage\n",
}

SOURCE = '''
"""A module."""
import os
from pathlib import Path as P

@decorate(1, key="ü")
class Point(Base):
    """A point."""
    x: int = 1
    """The coordinate."""
    def __init__(self, x: int | None = None, /, *rest: float, scale=2.5, **options) -> None:
        """Make a point."""
        super().__init__()
    def nothing(self): ...

async def walk(points: list[Point], *, depth: "int" = 0x10):
    if (n := len(points)) > 3 and not points[0].x:
        return None
    match points:
        case [Point(x=0), *_] | {"a": -1, **others} if n:
            del others
        case None:
            pass
        case "left" "right" as side:
            raise ValueError(f"{side!r}: {n:>{depth}} of {{n}} " f"{n = }" "é\\n" f"{n:}") from None
    async for i in points:
        yield {**i, "k": [j async for j in i if j], 1: True, 2.0: 3j, b"b": ...}
    try:
        x = lambda a, b=1: a[::2, ...] if b else (yield)
    except* (OSError, KeyError) as error:
        print(*rest, sep=f"")
'''
DIGEST = "d0cd2bcb4b011a8d876a7ca5fb5562d4e9526ca124bcd0d2150499eb2e5619db"

SAME_MEANING: dict[str, tuple[str, str]] = {
    "comment": ("x = 1\n", "# why\nx = 1  # because\n"),
    "docstring of a module": ("x = 1\n", '"""Doc."""\nx = 1\n'),
    "docstring of a class": ("class A:\n    x = 1\n", 'class A:\n    """Doc."""\n\n    x = 1\n'),
    "docstring of a function": ("def f():\n    return 1\n", 'def f():\n    """Doc.\n\n    More."""\n    return 1\n'),
    "docstring that is the whole body": ("class A(E): pass\n", 'class A(E):\n    """Doc."""\n'),
    "docstring of a field": ("class A:\n    x: int\n    y = 2\n", 'class A:\n    x: int\n    """Doc."""\n    y = 2\n'),
    "docstring of a constant": ("X = 1\n", 'X = 1\n"""Doc."""\n'),
    "line breaks and trailing comma": ("f(1, 2)\n", "f(\n    1,\n    2,\n)\n"),
    "quotes and pieces of a string": ("x = 'ab'\n", 'x = "a" "b"\n'),
    "pieces of an f-string": ("x = f'a{b}cd'\n", "x = ('a' f'{b}'\n  'c' f'd')\n"),
    "parentheses": ("x = (1 + 2)\n", "x = 1 + 2\n"),
}

OTHER_MEANING: dict[str, tuple[str, str]] = {
    "operator": ("x = a + b\n", "x = a - b\n"),
    "order of operations": ("x = (a + b) * c\n", "x = a + b * c\n"),
    "number": ("x = 1\n", "x = 2\n"),
    "type of a number": ("x = 1\n", "x = 1.0\n"),
    "truth for a number": ("x = 1\n", "x = True\n"),
    "text for a number": ("x = 1\n", "x = '1'\n"),
    "bytes for text": ("x = 'a'\n", "x = b'a'\n"),
    "nothing for a value": ("return_ = None\n", "return_ = 0\n"),
    "name": ("x = a\n", "x = b\n"),
    "default": ("def f(a=1): return a\n", "def f(a=2): return a\n"),
    "keyword-only argument": ("def f(a, b): return a\n", "def f(a, *, b): return a\n"),
    "default of which argument": ("def f(*, a=1, b): return a\n", "def f(*, a, b=1): return a\n"),
    "decorator": ("def f(): return 1\n", "@cache\ndef f(): return 1\n"),
    "type hint": ("x: int = 1\n", "x: float = 1\n"),
    "text of an f-string": ("x = f'a{b}c'\n", "x = f'a{b}d'\n"),
    "place in an f-string": ("x = f'{b}a'\n", "x = f'a{b}'\n"),
    "text for an expression in an f-string": ("x = f'{b}'\n", "x = f'{{b}}'\n"),
    "format": ("x = f'{b:.1f}'\n", "x = f'{b:.2f}'\n"),
    "conversion": ("x = f'{b}'\n", "x = f'{b!r}'\n"),
    "unpacking for a value": ("x = {**a}\n", "x = {a: a}\n"),
    "string that is returned": ("def f():\n    return 'a'\n", "def f():\n    'a'\n"),
    "block": ("if a:\n    b()\nc()\n", "if a:\n    b()\n    c()\n"),
    "else": ("for a in b:\n    c()\nelse:\n    d()\n", "for a in b:\n    c()\nd()\n"),
}


def digest(source: str) -> str:
    return tree_digest(ast.parse(source))


class TestTree:
    @pytest.mark.parametrize("kind", SAME_MEANING)
    def test_what_changes_no_meaning_leaves_the_digest(self, kind: str) -> None:
        before, after = SAME_MEANING[kind]
        assert digest(before) == digest(after)

    @pytest.mark.parametrize("kind", OTHER_MEANING)
    def test_another_meaning_is_another_digest(self, kind: str) -> None:
        before, after = OTHER_MEANING[kind]
        assert digest(before) != digest(after)

    def test_it_is_the_same_as_ever(self) -> None:
        """Results that another version of Python, or an older version of this package, made must not become stale."""
        assert digest(SOURCE) == DIGEST

    def test_every_python_of_this_machine_gives_the_same_digests(self) -> None:
        folder = Path.home() / ".pyenv" / "versions"
        found = [*Path("/usr/bin").glob("python3.1[1-3]"), *folder.glob("3.1[1-3].*/bin/python")]
        found += [Path(other) for other in os.environ.get("RL4VLM_PYTHONS", "").split()]
        # The module itself needs nothing but the standard library, so the other Pythons need no packages.
        code = (
            "import ast, pathlib, runpy, sys\n"
            "tree_digest = runpy.run_path(sys.argv[1], run_name='code_digest')['tree_digest']\n"
            "digests = [tree_digest(ast.parse(sys.stdin.read()))]\n"
            "files = sorted(pathlib.Path(sys.argv[2]).rglob('*.py'))\n"
            "digests += [tree_digest(ast.parse(file.read_text(encoding='utf-8'))) for file in files]\n"
            "print(sys.version_info[:2], *digests, sep='\\n')\n"
        )
        said: dict[str, list[str]] = {}
        for python in (Path(sys.executable), *found):
            command = [str(python), "-I", "-c", code, str(ROOT / "rl4vlm/config/code_digest.py"), str(ROOT / "rl4vlm")]
            done = subprocess.run(command, input=SOURCE, capture_output=True, text=True, check=True, encoding="utf-8")
            version, *digests = done.stdout.splitlines()
            said[version] = digests
        if len(said) == 1:
            pytest.skip(f"only Python {sys.version_info[:2]} is here; RL4VLM_PYTHONS can name others")
        mine = said[str(sys.version_info[:2])]
        assert len(mine) > 100
        assert [version for version, digests in said.items() if digests != mine] == []


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def names(module: str, *choices: str) -> set[str]:
    return set(module_digests(module, choices))


@pytest.mark.usefixtures("toy")
class TestToyPackage:
    def test_follows_imports_at_any_depth_and_only_those(self) -> None:
        expected = {"toy", "toy.tools", "toy.late", "toy.deep", "toy.deep.beside", "toy.deep.inner"}
        assert names("toy.tools") == expected

    def test_follows_only_the_registry_entries_that_are_looked_up(self) -> None:
        nothing = names("toy.stage")
        assert names("toy.stage", "chess") - nothing == {"toy.games.chess", "toy.board"}
        assert names("toy.stage", "draughts") - nothing == {"toy.games.draughts"}

    def test_an_entry_may_name_its_modules_anywhere_in_its_value(self) -> None:
        assert names("toy.stage", "go") - names("toy.stage") == {"toy.games.go", "toy.stones", "toy.pairs"}

    def test_an_entry_whose_key_cannot_be_read_counts_for_everyone(self) -> None:
        assert "toy.games.anything" in names("toy.stage")

    @pytest.mark.parametrize("reader", ["toy.facts", "toy.more_facts"])
    def test_data_files_count_for_those_who_read_them(self, reader: str) -> None:
        assert names(reader) == {"toy", reader, "toy.deep/numbers.csv"}
        assert "toy.deep/numbers.csv" not in names("toy.tools")

    def test_what_only_a_type_checker_imports_does_not_count(self) -> None:
        assert names("toy.typed") == {"toy", "toy.typed", "toy.board"}

    def test_nothing_is_imported_to_find_out(self) -> None:
        names("toy.stage", "chess", "go")
        assert not [name for name in sys.modules if name.partition(".")[0] == "toy"]

    def test_a_missing_module_is_named(self) -> None:
        with pytest.raises(ValueError, match=r"toy\.nowhere"):
            code_digest("toy.nowhere", ())


Edit = Callable[[Path], object]


@pytest.mark.parametrize(
    ("edit", "stages"),
    [
        (lambda root: (root / "toy/deep/inner.py").write_text("# why\nimport os, json\n"), set()),
        (lambda root: (root / "toy/unused.py").write_text("x = 1\n"), set()),
        (lambda root: (root / "toy/deep/README.md").write_text("More.\n"), set()),
        (lambda root: (root / "toy/deep/inner.py").write_text("import os\n"), {"toy.tools", "toy.stage"}),
        (lambda root: (root / "toy/deep/numbers.csv").write_text("1\n"), {"toy.facts"}),
        (lambda root: (root / "toy/board.py").write_text("x = 1\n"), {"toy.typed"}),
        (lambda root: (root / "toy/stones.py").write_text("x = 1\n"), {"toy.stage"}),
        (lambda root: (root / "toy/stones.py").rename(root / "toy/rocks.py"), {"toy.stage"}),
    ],
    ids=["comment", "unused", "readme", "import", "data", "board", "stones", "moved"],
)
def test_an_edit_changes_the_digests_of_those_who_run_it(
    toy: Path, tmp_path_factory: pytest.TempPathFactory, edit: Edit, stages: set[str]
) -> None:
    entries = ("toy.stage", "toy.tools", "toy.facts", "toy.typed")
    before = {entry: code_digest(entry, ["go"]) for entry in entries}
    # A copy elsewhere: a process reads each file once, and where the code lies must not matter.
    moved = toy.rename(tmp_path_factory.mktemp("elsewhere") / "copy")
    edit(moved)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(moved), *(item for item in sys.path if item != str(toy))])
        after = {entry: code_digest(entry, ["go"]) for entry in entries}
    assert {entry for entry in entries if before[entry] != after[entry]} == stages


ROWS = """
@dataclass
class Row:
    colour: str
ROWS = {"chess": Row("black", "toy.games.chess:Chess"), "go": Row("white")}
"""


@pytest.mark.parametrize(
    ("old", "new", "stages"),
    [
        ("black", "grey", {"chess"}),
        ("white", "grey", {"go"}),
        ('"go": Row("white")', '"go": Row("white"), "shogi": Row("white")', set()),
        ("colour: str", "colour: str = 'grey'", {"chess", "go", "draughts"}),
        ('"go": Row("white")', '"go": Row("white"), **more()', {"chess", "go", "draughts"}),
    ],
)
def test_a_row_of_a_registry_counts_only_for_those_who_look_it_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, stages: set[str]
) -> None:
    monkeypatch.setattr("rl4vlm.config.code_digest.REGISTRIES", {"toy.rows"})
    found: list[dict[str, str]] = []
    for text in (ROWS, ROWS.replace(old, new)):
        folder = tmp_path / f"{len(found)}"
        for name, content in {**FILES, "toy/rows.py": text}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(folder))
            found.append({choice: code_digest("toy.rows", [choice]) for choice in ("chess", "go", "draughts")})
    before, after = found
    assert {choice for choice in before if before[choice] != after[choice]} == stages


def test_every_registry_is_a_module() -> None:
    assert all(find_spec(name) for name in REGISTRIES)


def test_a_task_of_another_package_brings_its_own_code(toy: Path) -> None:
    info = toy / "toy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rl4vlm.tasks]\nmychess = toy.games.chess:Chess\n")
    module = "rl4vlm.config.code_digest"
    assert names(module, "mychess") - names(module) == {"toy", "toy.games", "toy.games.chess", "toy.board"}


@pytest.mark.parametrize("entry", ["rl4vlm.sft.data", "rl4vlm.gallery.build", "rl4vlm.figures.draw"])
def test_finds_every_module_that_python_really_loads(entry: str) -> None:
    """Against the truth: what `import` leaves in `sys.modules`. Registration with Gymnasium may look every task up."""
    code = f"import sys, {entry}; print(*[name for name in sys.modules if name.partition('.')[0] == 'rl4vlm'])"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert set(loaded.split()) <= names(entry, *task_names())


@pytest.mark.parametrize("entry", ["rl4vlm.sft.train", "rl4vlm.ppo.train", "rl4vlm.ppo.cnn", "rl4vlm.evaluation.run"])
def test_the_command_line_is_no_part_of_a_stage(entry: str) -> None:
    found = names(entry, "NumberLine", "vlm", "cnn", "api", "served", "random", "solver")
    assert [name for name in found if name.startswith("rl4vlm.cli")] == []
