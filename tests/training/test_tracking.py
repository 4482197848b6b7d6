"""TensorBoard and W&B get what metrics.jsonl gets."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from rl4vlm.core.types import Style
from rl4vlm.training.tracking import metric_sinks

LINE: dict[str, Any] = {"loss": 0.5, "update": 2, "none": None, "text": "x", "flag": True}


def test_no_logger_by_default(tmp_path: Path) -> None:
    with metric_sinks((), tmp_path, {}) as sinks:
        sinks.log(LINE, step=1)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_logger_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match=r"no metric logger 'tensorbord'.*tensorboard, wandb"),
        metric_sinks(("tensorbord",), tmp_path, {}),
    ):
        pass


def test_a_logger_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match="pip install wandb"), metric_sinks(("wandb",), tmp_path, {}):
        pass


def test_tensorboard_gets_the_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    with metric_sinks(("tensorboard",), tmp_path, {}) as sinks:
        sinks.log(LINE, step=7)
    (file,) = (tmp_path / "tensorboard").iterdir()
    events = [event for event in EventFileLoader(str(file)).Load() if event.summary.value]
    assert [event.step for event in events] == [7]
    numbers = {value.tag: value.tensor.float_val[0] for value in events[0].summary.value}
    assert numbers == {"loss": 0.5, "update": 2.0}


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []
    run = types.SimpleNamespace(
        log=lambda line, step: calls.append(("log", line, step)), finish=lambda: calls.append("finish")
    )
    module = types.ModuleType("wandb")

    def init(**kwargs: Any) -> types.SimpleNamespace:
        calls.append(("init", kwargs))
        return run

    module.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    return calls


def test_wandb_gets_the_numbers_and_is_closed_on_failure(tmp_path: Path, wandb: list[Any]) -> None:
    def fail() -> None:
        with metric_sinks(("wandb",), tmp_path / "run-a", {"style": Style.COT}) as sinks:
            sinks.log(LINE, step=7)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    (_, start), logged, finish = wandb
    assert (start["name"], start["config"]) == ("run-a", {"style": "cot"})
    assert logged == ("log", {"loss": 0.5, "update": 2.0}, 7)
    assert finish == "finish"
