"""Base model and demonstrations are made once for several workflows that share a cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rl4vlm.core.files import sha256_of
from tests.workflow.conftest import Workspace

pytestmark = pytest.mark.system

SHARED = ("base_model/cards", "sft_data/NumberLine-cot", "sft_data/NumberLine-nocot")


class Sharing:
    """A workflow whose results go to several folders, and the cache between them."""

    def __init__(self, space: Workspace, cache: Path) -> None:
        self.space, self.cache = space, cache
        # What the second workflow sees: a command that fails.
        self.broken = space.folder / "rl4vlm" / "cli" / "__init__.py"

    def results(self, name: str) -> Path:
        return self.space.folder / "results" / name

    def arguments(self, name: str, *overlays: str) -> list[str]:
        targets = [f"results/{name}/{folder}" for folder in SHARED]
        return [*targets, "--configfile", "config/smoke.yaml", *overlays, "--config", f"results_dir=results/{name}"]

    def run(self, name: str, *overlays: str) -> tuple[int, str]:
        done = self.space.snakemake(*self.arguments(name, *overlays), "--cache", "--keep-going", fork_jobs=True)
        return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def sharing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sharing]:
    cache = tmp_path_factory.mktemp("cache")
    made = Sharing(Workspace(tmp_path_factory.mktemp("sharing")), cache)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SNAKEMAKE_OUTPUT_CACHE", str(cache))
        code, said = made.run("one")
        assert code == 0, said
        made.broken.write_text("raise SystemExit('a command was run')\n")
        code, said = made.run("two")
        assert code == 0, said
        yield made


def test_the_second_workflow_runs_no_command_and_has_the_same_bytes(sharing: Sharing) -> None:
    for name in SHARED:
        first, second = sharing.results("one") / name, sharing.results("two") / name
        assert sha256_of(first) == sha256_of(second) is not None
        assert (second / "run.json").resolve().is_relative_to(sharing.cache)
    assert (sharing.results("two") / "sft_data" / "NumberLine-cot" / "images").is_dir()


def test_styles_are_not_taken_for_one_another(sharing: Sharing) -> None:
    texts = {
        style: (sharing.results("two") / "sft_data" / f"NumberLine-{style}" / "data.json").read_text()
        for style in ("cot", "nocot")
    }
    assert "thoughts" in texts["cot"]
    assert "thoughts" not in texts["nocot"]
    assert len(list(sharing.cache.iterdir())) == len(SHARED)


@pytest.mark.parametrize("name", ["one", "two"])
def test_neither_is_stale_afterwards(sharing: Sharing, name: str) -> None:
    assert sharing.space.planned(*sharing.arguments(name)) == []


def test_another_setting_is_another_result(sharing: Sharing) -> None:
    (sharing.space.folder / "more.yaml").write_text("sft_data: {defaults: {samples: 17}}\n")
    code, said = sharing.run("three", "more.yaml")
    assert code != 0
    assert "a command was run" in said
    # The base model is the same and was taken; other demonstrations were not.
    assert (sharing.results("three") / "base_model" / "cards" / "config.json").is_file()
    assert not (sharing.results("three") / "sft_data" / "NumberLine-cot").exists()
