"""Supervised fine-tuning on a tiny model and real demonstrations."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from rl4vlm.config.stages.sft import SFTSettings
from rl4vlm.config.stages.sft_data import SFTDataSettings
from rl4vlm.core.output import UNFINISHED
from rl4vlm.core.types import Style
from rl4vlm.models.encode import Encoder
from rl4vlm.models.loading import load_backbone
from rl4vlm.sft import train
from rl4vlm.sft.data import Demonstration, load_samples
from rl4vlm.sft.data import run as make_data
from rl4vlm.sft.train import encode_prompt, reply_losses, run, shuffled_batches
from rl4vlm.training import optim, state_file
from rl4vlm.training.store import StateFolder
from tests.launch import STRATEGIES, Launched

SETTINGS = SFTSettings(batch_size=8, micro_batch_size=4, learning_rate=1e-2, device="cpu", epochs=4)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sft") / "NumberLine-cot"
    make_data(task="NumberLine", style=Style.COT, out=folder, settings=SFTDataSettings(samples=32))
    return folder


@pytest.mark.parametrize("muon", [None, 0.05])
def test_the_loss_falls_and_the_checkpoint_is_ordinary(
    data: Path, tiny_checkpoint: Path, tmp_path: Path, muon: float | None
) -> None:
    run(data=data, init=tiny_checkpoint, out=tmp_path, settings=replace(SETTINGS, muon_learning_rate=muon))
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 16
    assert np.mean(losses[-4:]) < 0.7 * np.mean(losses[:4])
    AutoModelForImageTextToText.from_pretrained(tmp_path / "checkpoint")
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["inputs"]["data"]["sha256"]
    assert (record["settings"]["task"], record["settings"]["style"]) == ("NumberLine", "cot")


def test_loss_is_on_the_reply_only_and_padding_free(data: Path, tiny_checkpoint: Path) -> None:
    backbone = load_backbone(tiny_checkpoint)
    encoder = Encoder(backbone.processor)
    samples = load_samples(data)[:3]
    samples[1] = replace(samples[1], reply=samples[1].reply[:20], prompt="short")
    cpu = torch.device("cpu")

    def loss(group):
        return reply_losses(backbone.model, encoder, group, 2048, cpu).mean().item()

    assert loss(samples) == pytest.approx(np.mean([loss([sample]) for sample in samples]), rel=1e-4)
    by_hand = _loss_by_hand(backbone.model, encoder, samples[0])
    assert loss(samples[:1]) == pytest.approx(by_hand, rel=1e-4)


def _loss_by_hand(model, encoder, sample):
    """Transformers' loss with the prompt's labels masked."""
    from PIL import Image

    image = np.asarray(Image.open(sample.image))
    prompt, reply = encoder.prompt(image, sample.prompt), encoder.reply(sample.reply)
    ids = torch.cat([prompt.input_ids, reply])[None]
    labels = ids.clone()
    labels[:, : len(prompt.input_ids)] = -100
    return model(input_ids=ids, labels=labels, **prompt.images).loss.item()


def test_the_size_of_micro_batches_changes_nothing(data: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, epochs=1, batch_size=16, learning_rate=1e-3)
    for size in (4, 16):
        run(
            data=data, init=tiny_checkpoint, out=tmp_path / str(size), settings=replace(settings, micro_batch_size=size)
        )
    one, other = (
        AutoModelForImageTextToText.from_pretrained(tmp_path / str(size) / "checkpoint").state_dict()
        for size in (4, 16)
    )
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=2e-4, rtol=1e-3, msg=name)


def test_the_optimizer_is_fused_where_that_is_asked_for(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optim, "fused", lambda device: device.type == "cpu")
    assert train.begin(tiny_checkpoint, 8, SETTINGS).optimizer.param_groups[0]["fused"] is True


@pytest.mark.parametrize("asked", [True, False])
def test_a_gpu_multiplies_in_tf32_only_if_asked(asked: bool, tiny_checkpoint: Path) -> None:
    switches = torch.backends.cuda.matmul
    before = switches.allow_tf32
    try:
        switches.allow_tf32 = False
        train.begin(tiny_checkpoint, 32, replace(SETTINGS, tf32=asked))
        assert switches.allow_tf32 is asked
    finally:
        switches.allow_tf32 = before


def test_frozen_weights_stay_and_the_others_learn(data: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    run(data=data, init=tiny_checkpoint, out=tmp_path, settings=replace(SETTINGS, epochs=1, freeze=".*vision_tower.*"))
    before, after = (load_file(place / "model.safetensors") for place in (tiny_checkpoint, tmp_path / "checkpoint"))
    for name, weight in before.items():
        if "vision_tower" in name:
            assert torch.equal(weight, after[name]), name
        elif "projector" in name or "q_proj" in name:
            assert not torch.equal(weight, after[name]), name
    with pytest.raises(ValueError, match=r"freeze 'vision' matches no parameter; there are model\."):
        train.begin(tiny_checkpoint, 8, replace(SETTINGS, freeze="vision"))


def test_every_sample_once_an_epoch_in_another_order() -> None:
    first, second = (np.concatenate(shuffled_batches(50, SETTINGS, epoch)) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(50))
    assert first.tolist() != second.tolist()


def test_a_sample_too_long_is_named(data: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"NumberLine-cot-.* tokens, over 20"):
        run(data=data, init=tiny_checkpoint, out=tmp_path, settings=replace(SETTINGS, max_length=20))


def test_a_training_that_diverges_stops_and_leaves_no_checkpoint(
    data: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    wild = replace(SETTINGS, learning_rate=1e30, save_minutes=1e-9)
    resume_dir = StateFolder(tmp_path / "state", lambda: {"a.py": "1"})
    place = r"SFT NumberLine-cot, step \d+ of 16: loss is .*learning_rate"
    for _ in range(2):  # a rerun continues from finite numbers
        with pytest.raises(ValueError, match=place):
            run(data=data, init=tiny_checkpoint, out=tmp_path / "out", settings=wild, resume_dir=resume_dir)
        states = [state_file.read(file) for file in (tmp_path / "state").glob("*/*/model_state.pt")]
        assert states
        assert all(tensor.isfinite().all() for state in states for tensor in state["weights"].values())
    assert [path.name for path in (tmp_path / "out").iterdir()] == [UNFINISHED]
    assert "null" not in (tmp_path / "out" / UNFINISHED / "metrics.jsonl").read_text()


def test_published_data_are_trained_on(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A LLaVA JSON file like the published ones: JPEG images in another folder, and prompts from elsewhere."""
    from PIL import Image

    (tmp_path / "pictures").mkdir()
    entries = []
    for number in range(8):
        Image.new("RGB", (300, 300), (30 * number, 60, 90)).save(tmp_path / "pictures" / f"{number}.jpg")
        question = "<image>\nYou are playing a card game. What do you do? Answer as JSON."
        reply = '{\n "thoughts": "I have 21.",\n "action": "stand"\n}'
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": reply}]
        entries.append({"id": number, "image": f"pictures/{number}.jpg", "conversations": turns, "source": "theirs"})
    (tmp_path / "published.json").write_text(json.dumps(entries))
    settings = replace(SETTINGS, epochs=20)
    run(data=tmp_path / "published.json", init=tiny_checkpoint, out=tmp_path / "out", settings=settings)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.6 * losses[0]
    inputs = json.loads((tmp_path / "out" / "run.json").read_text())["inputs"]
    assert inputs["data"]["path"].endswith("published.json")


# Eleven samples in batches of five and micro-batches of two: no size divides another.
ODD = SFTSettings(
    epochs=1, batch_size=5, micro_batch_size=2, learning_rate=1e-3, warmup=0.0, dtype="float64", device="cpu",
    process_timeout=60.0,
)  # fmt: skip


def fine_tune(data: Path, init: Path, out: Path) -> None:
    run(data=data, init=init, out=out, settings=ODD)


@pytest.mark.parametrize("way", STRATEGIES)
def test_two_processes_equal_one_in_float64(way, tiny_checkpoint: Path, tmp_path: Path) -> None:
    data = tmp_path / "NumberLine-cot"
    make_data(task="NumberLine", style=Style.COT, out=data, settings=SFTDataSettings(samples=11))
    Launched(tmp_path, way, fine_tune, data, tiny_checkpoint, tmp_path / "two").assert_success()
    fine_tune(data, tiny_checkpoint, tmp_path / "one")
    weights = [load_file(tmp_path / name / "checkpoint" / "model.safetensors") for name in ("one", "two")]
    before = load_file(tiny_checkpoint / "model.safetensors")
    for name, alone in weights[0].items():
        assert alone.dtype == torch.float64
        torch.testing.assert_close(weights[1][name], alone, rtol=0, atol=1e-8, msg=name)
    assert max(float((weights[0][name] - before[name]).abs().max()) for name in before) > 1e-3
    AutoModelForImageTextToText.from_pretrained(tmp_path / "two" / "checkpoint")
    one, two = ((tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("one", "two"))
    assert len(one) == len(two) == 3
    for expected, found in zip(one, two, strict=True):
        assert json.loads(found) == pytest.approx(json.loads(expected), rel=1e-9)


def test_an_image_that_cannot_be_decoded_names_its_sample(tmp_path: Path) -> None:
    file = tmp_path / "short.png"
    Image.new("RGB", (30, 30), "red").save(file)
    content = bytearray(file.read_bytes())
    # Whole chunks with too few pixels: the check of the demonstrations reads no pixels.
    header, end = content.index(b"IDAT") - 4, content.index(b"IEND") - 4
    data = zlib.compress(bytes(10))
    chunk = len(data).to_bytes(4) + b"IDAT" + data + zlib.crc32(b"IDAT" + data).to_bytes(4)
    file.write_bytes(content[:header] + chunk + content[end:])
    with pytest.raises(ValueError, match=r"the image of sample 's7', .*short\.png, cannot be read"):
        encode_prompt(None, Demonstration("s7", file, "prompt", "reply"))  # type: ignore[arg-type]


class Shown:
    """An encoder that returns the pixels it is given."""

    def prompt(self, image: np.ndarray, text: str) -> np.ndarray:
        return image


@pytest.mark.parametrize(
    ("mode", "clear", "black"),
    [
        ("RGBA", (0, 0, 0, 0), (0, 0, 0, 255)),
        ("LA", (0, 0), (0, 255)),
        # One colour is the transparent one.
        ("P", 1, 0),
        ("L", 1, 0),
        ("RGB", (1, 1, 1), (0, 0, 0)),
    ],
)
def test_a_transparent_image_is_put_on_white(mode: str, clear: Any, black: Any, tmp_path: Path) -> None:
    image = Image.new(mode, (4, 2), clear)
    image.paste(black, (2, 0, 4, 2))
    if mode == "P":
        image.putpalette([0] * 6)
    image.info["transparency"] = clear
    image.save(tmp_path / "page.png")
    pixels = encode_prompt(Shown(), Demonstration("s7", tmp_path / "page.png", "", ""))  # type: ignore[arg-type]
    assert np.asarray(pixels).tolist() == [[[255] * 3] * 2 + [[0] * 3] * 2] * 2


def test_an_opaque_image_is_encoded_as_it_is(tmp_path: Path) -> None:
    drawn = np.random.default_rng(0).integers(256, size=(5, 7, 3), dtype=np.uint8)
    Image.fromarray(drawn).save(tmp_path / "page.png")
    pixels = encode_prompt(Shown(), Demonstration("s7", tmp_path / "page.png", "", ""))  # type: ignore[arg-type]
    assert np.array_equal(np.asarray(pixels), drawn)
