"""The encoder's fast path: the tensors of the processor, byte by byte."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from rl4vlm.models.encode import Encoder, FastLlavaProcessor
from rl4vlm.models.loading import load_backbone

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 300, 300, 3), np.uint8)


def test_the_fast_path_gives_the_processors_bytes(tiny_checkpoint: Path) -> None:
    processor = load_backbone(tiny_checkpoint).processor
    encoder = Encoder(processor)
    for image, prompt in zip(IMAGES, ["What is it?", "", "Say: [1, 2]", "What  is\nit?"], strict=True):
        theirs = processor(text=[encoder.chat(prompt)], images=[image], return_tensors="pt")
        encoded = encoder.prompt(image, prompt)
        assert encoded.images.keys() == {"pixel_values"}
        assert encoded.images["pixel_values"].dtype == theirs["pixel_values"].dtype
        assert torch.equal(encoded.images["pixel_values"], theirs["pixel_values"])
        assert torch.equal(encoded.input_ids, theirs["input_ids"][0])


def test_an_image_is_sent_as_bytes_and_processed_once_where_it_arrives(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = load_backbone(tiny_checkpoint).processor
    prompt = Encoder(processor).prompt(IMAGES[0, :60, :60], "What is it?")
    sent = pickle.dumps([prompt, prompt])
    assert len(sent) < 0.4 * prompt.images["pixel_values"].nbytes
    one, two = pickle.loads(sent)
    assert one is two
    assert one.key == prompt.key
    there = Encoder(processor)
    assert torch.equal(there.whole(one).images["pixel_values"], prompt.images["pixel_values"])
    monkeypatch.setattr(there, "_encode", None)
    assert there.whole(two).images is one.images
    # Its pixel values are fewer bytes.
    assert pickle.loads(pickle.dumps(Encoder(processor).prompt(IMAGES[0], "What is it?"))).images


@pytest.mark.parametrize("change", [{"do_center_crop": True}, {"size": {"shortest_edge": 60}}, {"do_resize": False}])
def test_a_processor_that_does_more_or_less_is_asked_itself(tiny_checkpoint: Path, change: dict[str, object]) -> None:
    processor = load_backbone(tiny_checkpoint).processor
    assert FastLlavaProcessor.of(processor) is not None
    for name, value in change.items():
        setattr(processor.image_processor, name, value)
    assert FastLlavaProcessor.of(processor) is None
