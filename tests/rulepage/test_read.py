"""What is read of a Snakefile."""

from __future__ import annotations

from pathlib import Path

import pytest

from rl4vlm.rulepage.read import Variant, grouped, read_workflow, rule_links

SNAKEFILE = '''
rule all:
    input:
        "b",
        "c.txt",


# What makes the first file,
# in two lines.
rule first:
    output:
        "a-{n,[0-9]+}.txt",
    threads: 2
    resources:
        mem_mb=300,
    shell:
        "make {wildcards.n} > {output} 2>&1 | tee log"


for NAME in ["b", "c.txt"]:

    rule:
        """Made of the first.

        And more.
        """
        name:
            f"make_{NAME[0]}"
        input:
            "a-1.txt",
        output:
            NAME,
        cache: True
        shell:
            "cat {input} > {output}"


rule alone:
    """Asked for by its name."""
    input:
        "b",
    output:
        "d",
    shell:
        "touch {output}"
'''


def written(folder: Path, text: str) -> Path:
    (folder / "Snakefile").write_text(text)
    return folder / "Snakefile"


def test_rules_their_texts_and_who_needs_whom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    workflow = read_workflow(written(tmp_path, SNAKEFILE), [Variant()])
    first, made, alone = workflow.rules
    assert (first.names, first.file, first.line) == (("first",), "Snakefile", 10)
    assert first.does == "What makes the first file, in two lines."
    assert first.outputs == ("a-{n}.txt",)
    assert (first.resources["_cores"], first.resources["mem_mb"]) == (2, 300)
    assert first.command.startswith("make {wildcards.n}")
    assert (made.names, made.does, made.shared) == (("make_b", "make_c"), "Made of the first. And more.", True)
    assert (alone.names, alone.shared) == (("alone",), False)
    assert workflow.needs == {("make_b", "first"), ("alone", "make_b")}
    assert workflow.targets == {"first", "make_b"}


def test_a_rule_that_says_nothing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    target = 'rule all:\n    input:\n        "a",\n\n\n'
    silent = target + 'rule silent:\n    output:\n        "a",\n    shell:\n        "touch a"\n'
    with pytest.raises(ValueError, match="line 6: rule silent has neither a docstring nor a comment"):
        read_workflow(written(tmp_path, silent), [Variant()])


def test_what_snakemake_refuses_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lost = 'rule all:\n    input:\n        "nobody makes this",\n'
    with pytest.raises(ValueError, match="nobody makes this"):
        read_workflow(written(tmp_path, lost), [Variant()])


def test_links_are_read_from_graphviz_text() -> None:
    nodes = '\t0[label = "all", color = "0"];\n\t1[label = "ppo"];\n\t2[label = "sft"];'
    dot = f"digraph x {{\n{nodes}\n\t1 -> 0\n\t2 -> 1\n}}"
    assert rule_links(dot) == {("all", "ppo"), ("ppo", "sft")}


def test_files_are_grouped_by_folder_in_order() -> None:
    assert grouped(["a/b/x", "a/y", "a/b/z"]) == {"a/b": ["x", "z"], "a": ["y"]}
