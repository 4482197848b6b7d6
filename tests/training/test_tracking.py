"""Metric trackers get the numbers of a line and are closed, whatever happens to the training."""

from __future__ import annotations

import io
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate import Accelerator
from PIL import Image

from rl4vlm.core.types import Step, Style
from rl4vlm.training.tracking import metric_trackers

LINE: dict[str, Any] = {"loss": 0.5, "update": 2, "none": None, "text": "x", "flag": True}


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def test_none_is_asked_for_by_default(accelerator: Accelerator, tmp_path: Path) -> None:
    with metric_trackers(accelerator, (), tmp_path, {}) as track:
        track(LINE, 1)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_logger_is_named(accelerator: Accelerator, tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match=r"no metric logger 'tensorbord'.*tensorboard, wandb"),
        metric_trackers(accelerator, ("tensorbord",), tmp_path, {}),
    ):
        pass


def test_a_logger_that_is_not_installed_is_named(
    accelerator: Accelerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with (
        pytest.raises(ValueError, match="pip install wandb"),
        metric_trackers(accelerator, ("wandb",), tmp_path, {}),
    ):
        pass


def test_tensorboard_event_files_hold_the_numbers(accelerator: Accelerator, tmp_path: Path) -> None:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    with metric_trackers(accelerator, ("tensorboard",), tmp_path, {}) as track:
        track(LINE, 7)
        track({"loss": 0.25}, 8)
    (file,) = (tmp_path / "tensorboard").iterdir()
    found = [
        (event.step, value.tag, value.tensor.float_val[0])
        for event in loader.EventFileLoader(str(file)).Load()
        for value in event.summary.value
    ]
    assert found == [(7, "loss", 0.5), (7, "update", 2.0), (8, "loss", 0.25)]


def played(reply: str, shade: int) -> Step:
    """A step that shows a grey image, with what a tracker is told of it."""
    step: Any = types.SimpleNamespace(
        request=types.SimpleNamespace(image=np.full((30, 20, 3), shade, np.uint8)),
        reply=types.SimpleNamespace(text=reply),
        action="+",
        reward=-1.0,
    )
    return step


EPISODE = [played("one", 10), played("two", 200)]


def test_tensorboard_event_files_hold_an_episodes_images_and_replies(accelerator: Accelerator, tmp_path: Path) -> None:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    with metric_trackers(accelerator, ("tensorboard",), tmp_path, {}) as track:
        track.episode("played", EPISODE, 7)
    (file,) = (tmp_path / "tensorboard").iterdir()
    values = [value for event in loader.EventFileLoader(str(file)).Load() for value in event.summary.value]
    image, text = (next(value for value in values if value.tag.startswith(tag)) for tag in ("played", "played/text"))
    # Width, height and the PNG of both images side by side.
    width, height, png = image.tensor.string_val
    assert (int(width), int(height)) == (40, 30)
    pixels = np.array(Image.open(io.BytesIO(png)))
    assert [pixels[15, column, 0] for column in (5, 35)] == [10, 200]
    (shown,) = text.tensor.string_val
    assert shown.decode() == "one\n\n+: reward -1\n\n---\n\ntwo\n\n+: reward -1"


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a stand-in for the client is called with."""
    calls: list[Any] = []
    run = types.SimpleNamespace(
        log=lambda line, step: calls.append(("log", line, step)), finish=lambda: calls.append("finish")
    )
    module = types.ModuleType("wandb")

    def init(**kwargs: Any) -> types.SimpleNamespace:
        calls.append(("init", kwargs))
        return run

    module.init = init  # type: ignore[attr-defined]
    module.Image = lambda image, caption: (image[0, 0, 0], caption)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    return calls


def test_wandb_gets_the_numbers_and_is_closed_on_failure(
    accelerator: Accelerator, tmp_path: Path, wandb: list[Any]
) -> None:
    def fail() -> None:
        with metric_trackers(accelerator, ("wandb",), tmp_path / "run-a", {"style": Style.COT}) as track:
            track(LINE, 7)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    (_, start), logged, finish = wandb
    assert (start["name"], start["config"]) == ("run-a", {"style": "cot"})
    assert logged == ("log", {"loss": 0.5, "update": 2.0}, 7)
    assert finish == "finish"


def test_wandb_gets_an_episodes_images_with_their_replies(
    accelerator: Accelerator, tmp_path: Path, wandb: list[Any]
) -> None:
    with metric_trackers(accelerator, ("wandb",), tmp_path, {}) as track:
        track.episode("played", EPISODE, 7)
    shown = [(10, "one\n\n+: reward -1"), (200, "two\n\n+: reward -1")]
    assert ("log", {"played": shown}, 7) in wandb


def test_a_second_training_on_the_same_accelerator_logs_to_its_own_trackers(
    accelerator: Accelerator, tmp_path: Path, wandb: list[Any]
) -> None:
    for name in ("first", "second"):
        with metric_trackers(accelerator, ("wandb",), tmp_path / name, {}) as track:
            track({"loss": 1.0}, 1)
    assert [call[1]["name"] for call in wandb if call[0] == "init"] == ["first", "second"]
    assert [call for call in wandb if call[0] == "log"] == [("log", {"loss": 1.0}, 1)] * 2
