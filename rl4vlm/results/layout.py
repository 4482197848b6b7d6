"""A table of texts in Markdown and in LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "λ": r"$\lambda$",
    "±": r"$\pm$",
    "†": r"\dag{}",
}


@dataclass(frozen=True)
class Table:
    """A caption, the column headings, and rows of one text a column.

    The first column groups: a text that repeats from the row above is left out when the table is written. Texts up to
    the first two columns are words, the others are figures and are set to the right.
    """

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


def markdown(table: Table) -> str:
    """The table in GitHub's Markdown, with its caption below."""
    align = [":--" if column < 2 else "--:" for column in range(len(table.headings))]
    lines = [table.headings, align, *([_md(cell) for cell in row] for row in _grouped(table.rows))]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", table.caption, ""])


def latex(table: Table) -> str:
    """The table as a `table` environment (packages booktabs)."""
    columns = "ll" + "r" * (len(table.headings) - 2)
    body: list[str] = []
    for row in _grouped(table.rows):
        if row[0] and body:
            body.append(r"\addlinespace")
        body.append(_tex_line(row))
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_tex(table.caption)}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _tex_line(table.headings),
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join([*lines, ""])


def _grouped(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    above = [None, *(row[0] for row in rows)]
    return [["" if row[0] == previous else row[0], *row[1:]] for row, previous in zip(rows, above, strict=False)]


def _md(text: str) -> str:
    return text.replace("|", r"\|")


def _tex_line(cells: Sequence[str]) -> str:
    return " & ".join(map(_tex, cells)) + r" \\"


def _tex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text.replace("`", ""))
