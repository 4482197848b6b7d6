"""Every reader with damaged files: it must raise an error that names the file, or read the same content.

A file without a checksum in a record may also be read as other content, if that is valid.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rl4vlm.archive.verify import read_sums
from rl4vlm.config.check import checked_config
from rl4vlm.config.load import load_config
from rl4vlm.config.stages.backbone import LoraSettings
from rl4vlm.config.stages.cnn import CNNSizes
from rl4vlm.core.output import check_unchanged, output_checksums
from rl4vlm.envs.alfworld.games import GAME, TRAJECTORY, find_games, read_game
from rl4vlm.interaction.options import options_of
from rl4vlm.models.cnn import CNNActorCritic
from rl4vlm.models.loading import load_backbone
from rl4vlm.models.value_head import ValueHead
from rl4vlm.policies.api.cache import ReplyCache, Stored
from rl4vlm.results.claims import load_claims
from rl4vlm.results.provenance import read_record
from rl4vlm.results.read import load_base_perception, load_evaluation, load_recording, load_training_run
from rl4vlm.sft.data import llava_entry, load_samples
from rl4vlm.tasks.registry import task_names
from rl4vlm.training import state_file
from rl4vlm.training.store import StateStore
from tests.results.synthetic import Synthetic, add_evaluation, add_training_run, write_json, write_lines
from tests.torture.damage import damages
from tests.torture.records import budget, trial

ROOT = Path(__file__).parents[2]


@dataclass
class Reader:
    """A file, and the function that reads it. Different contents must give different results."""

    name: str
    file: Path
    read: Callable[[], Any]
    recorded: bool = True
    """Whether a record has the file's checksum: then no other content may be accepted."""
    names: tuple[str, ...] = ()
    """What an error may name in place of the file, such as its folder."""
    tries: tuple[int, int] = (20, 2_000)
    """How many damaged contents the short and the long form try."""


def weights_of(module: torch.nn.Module) -> dict[str, bytes]:
    return {name: weight.numpy().tobytes() for name, weight in module.state_dict().items()}


def weights_of_cnn(folder: Path) -> dict[str, bytes]:
    return weights_of(CNNActorCritic.load(folder, temperature=1.0))


def games_of(data: Path) -> list[Any]:
    return [read_game(found) for found in find_games(data, "train").files]


def record(folder: Path, **entries: Any) -> None:
    """A `run.json` that lists what the folder holds."""
    write_json(folder / "run.json", {"stage": "x", **entries, "outputs": output_checksums(folder, "run.json")})


def networks(at: Path, _: Path) -> Iterator[Reader]:
    network = CNNActorCritic(
        ("+", "-"),
        reads_text=False,
        sizes=CNNSizes(image_size=40, channels=(4, 4, 4), width=16, text_embedding=4, text_width=8),
        temperature=1.0,
    )
    for recorded in (True, False):
        folder = at / f"run{recorded:d}" / "checkpoint"
        folder.mkdir(parents=True)
        network.save(folder)
        ValueHead(8, (4,)).save(folder)
        if recorded:
            record(folder.parent)
        for name in ("cnn.safetensors", "cnn.json"):
            yield Reader(
                f"CNN: {name}",
                folder / name,
                partial(weights_of_cnn, folder),
                recorded,
                ("cnn.json", "cnn.safetensors"),
            )
    yield Reader("value head", folder / "value_head.safetensors", lambda: weights_of(ValueHead.load(folder)), False)


def models(at: Path, tiny: Path) -> Iterator[Reader]:
    adapted = load_backbone(tiny, lora=LoraSettings(rank=1))
    for recorded in (True, False):
        folder, adapter = at / f"base{recorded:d}", at / f"adapter{recorded:d}" / "checkpoint"
        shutil.copytree(tiny, folder)
        adapter.mkdir(parents=True)
        adapted.save(adapter)
        if recorded:
            record(folder)
            record(adapter.parent)
        for place in (folder, adapter):
            read = partial(lambda place: weights_of(load_backbone(place).model), place)
            for file in sorted(place.iterdir()):
                if file.name != "run.json":
                    kind = "base model" if place == folder else "adapter"
                    yield Reader(
                        f"{kind}: {file.name}",
                        file,
                        read,
                        recorded,
                        (str(place),),
                        (8 if recorded else 3, 1_000),
                    )


def demonstrations(at: Path, _: Path) -> Iterator[Reader]:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 30, 3), np.uint8)
    for recorded in (True, False):
        folder = at / f"data{recorded:d}"
        (folder / "images").mkdir(parents=True)
        Image.fromarray(pixels).save(folder / "images" / "1.png")
        entries = [llava_entry(str(number), "images/1.png", "What now?", '{"action": "+"}') for number in range(3)]
        (folder / "data.json").write_text(json.dumps(entries, indent=1))
        if recorded:
            record(folder)

        def read(folder: Path = folder) -> Any:
            check_unchanged(folder)
            samples = load_samples(folder)
            return samples, [Image.open(sample.image).tobytes() for sample in samples]

        yield Reader("demonstrations: data.json", folder / "data.json", read, recorded)
        # PNG has checksums of its own, but not of every byte.
        yield Reader("demonstrations: an image", folder / "images" / "1.png", read, recorded)


def results(at: Path, _: Path) -> Iterator[Reader]:
    made = Synthetic(at)
    evaluation = add_evaluation(made, "sft-a", "NumberLine", "LLaVA-sft", "sft", 0.5, 4, reads=True)
    steps = [{"action": "+", "reward": 0.0, "outcome": "ok", "fallback": False, "reply": '"action": "+"'}]
    lines = [json.loads(line) for line in (evaluation / "episodes.jsonl").read_text().splitlines()]
    played = {"return": 1.0, "length": 1, "fallbacks": 0, "steps": steps}
    write_lines(evaluation / "episodes.jsonl", [{**line, **played} for line in lines])
    record(evaluation, settings={"task": "NumberLine", "style": "cot"}, seeds={})
    for name in ("episodes.jsonl", "summary.json"):
        for read in (load_evaluation, load_recording):
            yield Reader(f"evaluation: {name} ({read.__name__})", evaluation / name, partial(read, evaluation))
    run = add_training_run(made, "Blackjack-nocot-lambda0.5-seed7", 0.3, 0.4, seed=7, updates=4)
    known = read_record(run / "run.json")
    record(run, **{name: known[name] for name in ("stage", "settings", "seeds")})
    yield Reader("training: metrics.jsonl", run / "metrics.jsonl", lambda: load_training_run(run))
    yield Reader("training: run.json", run / "run.json", lambda: load_training_run(run), False, ("metrics.jsonl",))
    yield Reader("any run.json", run / "run.json", lambda: read_record(run / "run.json"), False)
    perception = at / "base" / "perception.json"
    write_json(perception, {"samples": 200, "tasks": {"EZPoints": {"cards": 0.5}}})
    record(perception.parent)
    yield Reader("base model: perception.json", perception, lambda: load_base_perception(perception))


def states(at: Path, _: Path) -> Iterator[Reader]:
    said: list[str] = []
    store = StateStore(at / "state", {"seed": 1}, report=said.append)
    with store.saving() as draft:
        for name in ("shared.pt", "model.pt"):
            with draft.file(name) as file:
                state_file.write({"step": 3, "weights": torch.arange(9.0)}, file)

    def read() -> Any:
        said.clear()
        folder = store.newest()
        if folder is None:
            raise ValueError("; ".join(said))
        return [str(state_file.read(folder / name)) for name in ("shared.pt", "model.pt")]

    folder = store.newest()
    assert folder is not None
    yield Reader("state: model.pt", folder / "model.pt", read)
    yield Reader("state: manifest.json", folder / "manifest.json", read, True, (folder.name,))


def games(at: Path, _: Path) -> Iterator[Reader]:
    for recorded in (True, False):
        file = at / f"games{recorded:d}" / "train" / "pick_and_place_simple-Mug-None-Desk-301" / "trial_1" / GAME
        grammar = 'intro :: "You are in a room.\\n\\nYour task is to: put a mug in desk."'
        texts = {"pddl_domain": "(define (domain x))", "grammar": grammar, "pddl_problem": "(:init) (:goal)"}
        write_json(file, {**texts, "solvable": True, "walkthrough": ["look"]})
        goal = {"object_target": "Mug", "parent_target": "Desk", "toggle_target": ""}
        scene = {"scene_num": 301}
        write_json(
            file.with_name(TRAJECTORY), {"task_type": "pick_and_place_simple", "pddl_params": goal, "scene": scene}
        )
        data = file.parents[3]
        if recorded:
            record(data)
        for name in (GAME, TRAJECTORY):
            yield Reader(
                f"ALFWorld: {name}",
                file.with_name(name),
                partial(games_of, data),
                recorded,
            )


def others(at: Path, _: Path) -> Iterator[Reader]:
    cache = ReplyCache(at / "cache")
    cache.put("ab12", "http://127.0.0.1/v1", {"model": "m", "temperature": 0.5}, 0, Stored(200, '{"choices": []}', 1))
    yield Reader("API cache", at / "cache" / "ab" / "ab12.json", lambda: cache.get("ab12"))
    shutil.copytree(ROOT / "config", at / "config")
    known = task_names()
    for name in ("config.yaml", "scales/embedded.yaml"):
        yield Reader(
            f"config: {name}",
            at / "config" / name,
            lambda: checked_config(load_config([at / "config" / "config.yaml"]), known, options_of),
            False,
            # An error about a wrong value names the key.
            ("config, ",),
            (20, 1_000),
        )
    shutil.copy(ROOT / "claims.yaml", at)
    yield Reader("claims.yaml", at / "claims.yaml", lambda: load_claims(at / "claims.yaml", "results"), False)
    sums = at / "SHA256SUMS"
    sums.write_text("".join(f"{'0' * 64}  results/{name}.csv\n" for name in "ab"))
    yield Reader("archive: SHA256SUMS", sums, lambda: read_sums(sums), False)


def check(reader: Reader, whole: Any, content: bytes, harmed: bytes, damage: str) -> str:
    """Read the damaged content `harmed`, and return the outcome. `damage` describes it for the record if it fails."""
    reader.file.write_bytes(harmed)
    try:
        found = reader.read()
    except (ValueError, OSError) as error:
        own = type(error) is ValueError or type(error).__module__.startswith("rl4vlm.")
        named = any(name in str(error) for name in (reader.file.name, *reader.names))
        if not named or not (own or (isinstance(error, OSError) and error.filename)):
            raise
        return "were refused, with the file"
    if found == whole or harmed == content:
        return "gave the same content"
    assert not reader.recorded, "other content was accepted"
    return "gave other valid content, which no record could tell"


@pytest.mark.parametrize("make", [networks, models, demonstrations, results, states, games, others])
def test_damaged_files(
    make: Callable[[Path, Path], Iterator[Reader]], tmp_path: Path, tiny_checkpoint: Path, monkeypatch: Any
) -> None:
    # A damaged file may name another model, which must not be looked for on the hub.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    rng, problems = Random(10), []
    # Loading a model takes longer than all else, so readers that are shared by several files run once.
    whole: dict[Callable[[], Any], Any] = {}
    for reader in make(tmp_path, tiny_checkpoint):
        content = reader.file.read_bytes()
        if reader.read not in whole:
            whole[reader.read] = reader.read()
        try:
            with trial("Damaged files", f"{reader.name}{'' if reader.recorded else ', not recorded'}") as tried:
                for damage, harmed in damages(content, rng, budget(*reader.tries)):
                    tried.attempt(partial(check, reader, whole[reader.read], content, harmed), damage)
        except AssertionError as error:
            problems.append(f"{reader.name}: {error}")
        reader.file.write_bytes(content)
    assert problems == [], "\n".join(problems)
