"""Every stage as a command with tiny settings, for checks that kill it, fill its disk or run it twice at once."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rl4vlm.cli import main
from rl4vlm.config.stages.evaluation import EvaluationSettings
from rl4vlm.config.stages.sft_data import SFTDataSettings
from rl4vlm.core.files import RECORD, read_json, sha256_of
from rl4vlm.core.types import Style
from rl4vlm.evaluation.run import run as evaluate
from rl4vlm.figures.assets import CLOSING, OPENING
from rl4vlm.results.names import FIGURES
from rl4vlm.results.tables import build_tables
from rl4vlm.sft.data import run as make_data
from tests.launch import FORK_SERVER, write_to
from tests.results.synthetic import make_results, write_json

TRAINED = "--state {work}/state --set device=cpu learning_rate=0.001"
PLAYED = f"{TRAINED} num_envs=4 num_steps=8 ppo_epochs=2 minibatch_size=8 total_env_steps=64"
BASE_MODEL = (
    "steps=2 batch_size=4 corpus=20 probe=2 pretrain_tasks=[NumberLine] sizes.vocabulary=400 sizes.image_size=60 "
    "sizes.patch=15 sizes.width=32 sizes.vision_layers=1 sizes.language_layers=1 sizes.heads=2 sizes.mlp=64"
)
RESULTS = "--results {given}/results --scale smoke --thought-prob-coef NumberLine=0.5"
STAGES = {
    "base_model": f"base-model --out {{work}}/out --set device=cpu {BASE_MODEL}",
    "sft_data": "sft-data --task NumberLine --out {work}/out --set samples=12",
    "sft": f"sft --data {{given}}/data --init {{model}} --out {{work}}/out {TRAINED} batch_size=4 micro_batch_size=2",
    "ppo": f"ppo --task NumberLine --init {{model}} --out {{work}}/out {PLAYED} micro_batch_size=4 max_new_tokens=8 "
    "value_sizes=[8]",
    "cnn": f"cnn --task EZPoints --out {{work}}/out {PLAYED} sizes.image_size=40",
    "evaluate": "evaluate {model} NumberLine --out {work}/out --set episodes=6 num_envs=3 max_new_tokens=8 device=cpu",
    "tables": f"tables {RESULTS} --out {{work}}/out",
    "figure": f"figure lambda_ablation {RESULTS} --out {{work}}/out",
    "gallery": "gallery --results {given}/played --scale smoke --out {work}/out --set episodes=2",
    "readme_assets": "readme-assets --figures {given}/results/figures --tables {given}/results/tables --out {work}/out "
    "--readme {work}/README.md",
}
"""Command lines by stage: `{work}` is the folder to write to, `{given}` has inputs, `{model}` is a tiny checkpoint."""
UNTIMED = ("timing.jsonl",)
"""Files whose content differs from run to run."""


class Running:
    """A command in a process of its own."""

    def __init__(self, words: list[str], most_bytes: int | None = None) -> None:
        """Start the command.

        Args:
            words: the command line after `rl4vlm`.
            most_bytes: size of the largest file that it may write; None for no limit.
        """
        self._output, writer = FORK_SERVER.Pipe(duplex=False)
        self.process = FORK_SERVER.Process(target=_run, args=(writer, words, most_bytes))
        self.process.start()
        writer.close()

    def end(self) -> tuple[int | None, str]:
        """Wait for the end. Returns the exit code, and all that was printed."""
        printed = b""
        while part := os.read(self._output.fileno(), 1 << 16):
            printed += part
        self.process.join()
        return self.process.exitcode, printed.decode()


def _run(writer: Connection, words: list[str], most_bytes: int | None) -> None:
    write_to(writer.fileno(), writer.fileno())
    writer.close()
    if most_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    sys.exit(main(words))


class Bench:
    """A folder in which stages run, their inputs, and the results of each stage's undisturbed run."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.work, self.given, self.model = folder / "work", folder / "given", model
        self._undisturbed: dict[str, tuple[Path, float]] = {}
        make_data(task="NumberLine", style=Style.COT, out=self.given / "data", settings=SFTDataSettings(samples=12))
        settings = EvaluationSettings(episodes=4, num_envs=2)
        played = self.given / "played" / "eval" / "solver"
        evaluate(policy="solver", task="NumberLine", style=Style.COT, out=played, settings=settings)
        results = self.given / "results"
        made = make_results(results, tasks=["NumberLine"], episodes=10)
        for evaluation in made.evaluations:
            write_json(evaluation / RECORD, {"stage": "evaluation"})
        build_tables(**made.inputs, out=results / "tables", scale="smoke")
        (results / "figures").mkdir()
        for name in FIGURES:
            (results / "figures" / f"{name}.png").write_bytes(name.encode() * 1000)

    def start(self, stage: str, most_bytes: int | None = None) -> Running:
        """Start a stage in the work folder."""
        words = STAGES[stage].format(work=self.work, given=self.given, model=self.model)
        return Running(words.split(), most_bytes)

    def clear(self) -> None:
        """Empty the work folder. It then holds a file of the user's, which no stage may touch, and a README."""
        self._empty()
        (self.work / "thesis.txt").write_text("years of work")
        (self.work / "README.md").write_text(OPENING + CLOSING)

    def _empty(self) -> None:
        self.work.mkdir(parents=True, exist_ok=True)
        for path in self.work.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def undisturbed(self, stage: str) -> tuple[Path, float]:
        """A copy of the work folder after an undisturbed run, and how many seconds that took."""
        if stage not in self._undisturbed:
            self.clear()
            begun = time.monotonic()
            code, printed = self.start(stage).end()
            assert code == 0, printed
            seconds = time.monotonic() - begun
            self._undisturbed[stage] = (self.work.rename(self.work.with_name(stage)), seconds)
        return self._undisturbed[stage]

    def put_result(self, stage: str) -> None:
        """Put an earlier result of the stage into the work folder."""
        earlier, _ = self.undisturbed(stage)
        self._empty()
        shutil.copytree(earlier, self.work, dirs_exist_ok=True)

    def check_whole(self, stage: str, *, hidden: bool = False) -> None:
        """Assert that the work folder is as an undisturbed run leaves it.

        Args:
            stage: which run to compare with.
            hidden: ignore locks, drafts and states, which a stage that was stopped may leave.
        """
        expected, found = left(self.undisturbed(stage)[0]), left(self.work)
        if hidden:
            found = {name: content for name, content in found.items() if "/." not in f"/{name}" and name[:5] != "state"}
        assert found.keys() == expected.keys(), sorted(found.keys() ^ expected.keys())
        assert found == expected, [name for name in found if found[name] != expected[name]]


def left(folder: Path) -> dict[str, Any]:
    """All that is below a folder, by name: checksums of files, and of each record the entries that do not depend on
    when and where it was written."""
    found: dict[str, Any] = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or path.name in UNTIMED:
            found[name] = None
        elif path.name.endswith(RECORD):
            record = read_json(path)
            outputs = {name: digest for name, digest in record["outputs"].items() if name not in UNTIMED}
            found[name] = {**{key: record[key] for key in ("stage", "settings", "seeds", "inputs")}, "outputs": outputs}
        else:
            found[name] = sha256_of(path)
    return found
