"""Measures how a checkout is laid out: lines by folder, long files, comments, explanations of a setting, README.

    python benchmarks/layout.py . --setting clip_range

Prints Markdown tables. Reads only files that git tracks, so any checkout can be compared with another.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

LONGEST_ALLOWED = 350
SUFFIXES = (".py", ".smk", ".yaml", ".md", ".html", ".css", ".js", ".toml")
"""Text files that are counted. Data, locks and images are not."""
PRAGMA = re.compile(r"#\s*(!|type:|noqa|fmt:|hadolint|mypy:)")
"""Comments that address a tool."""
NOT_CODE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
"""Tokens that do not make a line of code."""


def tracked_files(root: Path) -> list[Path]:
    """The text files of a checkout that git tracks, relative to `root`."""
    listed = subprocess.run(["git", "-C", str(root), "ls-files", "-z"], check=True, capture_output=True, text=True)
    names = [Path(name) for name in listed.stdout.split("\0") if name]
    return sorted(name for name in names if _is_text(name) and (root / name).is_file())


def _is_text(name: Path) -> bool:
    return name.suffix in SUFFIXES or name.name in ("Snakefile", "Makefile", "Dockerfile")


def folder_of(name: Path) -> str:
    """The folder that a file counts for: the top one, or `rl4vlm/<folder>` and `tests/<folder>`."""
    parts = name.parts[:-1]
    depth = 2 if parts[:1] in (("rl4vlm",), ("tests",)) else 1
    return "/".join(parts[:depth]) or "."


def code_and_comments(text: str) -> tuple[int, int]:
    """The number of lines with code, without docstrings, and the number of comments, without pragmas."""
    comments, code = 0, set[int]()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            comments += not PRAGMA.match(token.string)
        elif token.type not in NOT_CODE:
            code.update(range(token.start[0], token.end[0] + 1))
    for string in _bare_strings(ast.parse(text)):
        code.difference_update(range(string.lineno, (string.end_lineno or string.lineno) + 1))
    return len(code), comments


def _bare_strings(tree: ast.AST) -> Iterator[ast.Expr]:
    """Docstrings, also those below fields."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node


def explanations(name: Path, text: str, setting: str) -> list[int]:
    """The lines of a file on which a text explains a setting."""
    if name.suffix == ".py":
        return sorted(_explained_in_python(text, setting))
    lines = text.splitlines()
    quoted = re.compile(rf"`{setting}`")
    key = re.compile(rf"^\s*{setting}:")
    found = []
    for number, line in enumerate(lines, start=1):
        below = " ".join(lines[number - 1 : number + 5])
        above = lines[number - 2].strip() if number > 1 else ""
        has_comment = "#" in line or above.startswith("#")
        if quoted.search(line) or (key.match(line) and (has_comment or "description:" in below)):
            found.append(number)
    return found


def _explained_in_python(text: str, setting: str) -> Iterator[int]:
    named = re.compile(rf"`{setting}`|^\s*{setting}(, \w+)*: ", re.MULTILINE)
    tree = ast.parse(text)
    for string in _bare_strings(tree):
        assert isinstance(string.value, ast.Constant)
        if named.search(str(string.value.value)):
            yield string.lineno
    for node in ast.walk(tree):
        for field, below in pairwise(node.body) if isinstance(node, ast.ClassDef) else ():
            is_field = isinstance(field, ast.AnnAssign) and ast.unparse(field.target) == setting
            if is_field and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                yield field.lineno
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and named.search(token.string.lstrip("# ")):
            yield token.start[0]


def report(root: Path, settings: Sequence[str]) -> str:
    """The report as Markdown."""
    texts = {name: (root / name).read_text(encoding="utf-8") for name in tracked_files(root)}
    lines = {name: len(text.splitlines()) for name, text in texts.items()}
    rows: dict[str, list[int]] = {}
    for name, text in texts.items():
        code, comments = code_and_comments(text) if name.suffix == ".py" else (0, 0)
        row = rows.setdefault(folder_of(name), [0, 0, 0, 0, 0])
        for column, value in enumerate((1, lines[name], code, comments)):
            row[column] += value
        row[4] = max(row[4], lines[name])
    for total in ("rl4vlm", "tests"):
        parts = [row for folder, row in rows.items() if folder.split("/")[0] == total]
        rows[f"{total}, all"] = [
            *(sum(column) for column in [*zip(*parts, strict=True)][:4]),
            max(part[4] for part in parts),
        ]
    told = ["| folder | files | lines | lines of code | comments per 100 | longest file |", "|---|---|---|---|---|---|"]
    for folder, (files, count, code, comments, longest) in sorted(rows.items()):
        rate = f"{100 * comments / code:.1f}" if code else ""
        told.append(f"| {folder} | {files} | {count} | {code or ''} | {rate} | {longest} |")
    python = {name: count for name, count in lines.items() if name.suffix == ".py"}
    longest_file = max(python, key=lambda name: python[name])
    above = [f"{name} ({count})" for name, count in python.items() if count > LONGEST_ALLOWED]
    told += [
        "",
        f"All text files: {sum(lines.values())} lines in {len(lines)} files.",
        f"Longest Python file: {longest_file}, {python[longest_file]} lines.",
        f"Python files above {LONGEST_ALLOWED} lines: {', '.join(above) or 'none'}.",
    ]
    for setting in settings:
        places = [f"{name}:{line}" for name, text in texts.items() for line in explanations(name, text, setting)]
        told.append(f"`{setting}` is explained in {len(places)} places: {', '.join(places) or 'none'}.")
    readme = texts.get(Path("README.md"), "")
    told.append(f"README.md: {len(readme.split())} words, {len(readme.splitlines())} lines.")
    return "\n".join(told)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path, nargs="?", default=Path(), help="the checkout (default: this folder)")
    parser.add_argument("--setting", action="append", help="count explanations of this setting (default: clip_range)")
    arguments = parser.parse_args(argv)
    print(report(arguments.checkout, arguments.setting or ["clip_range"]))


if __name__ == "__main__":
    main()
