"""Optional metric trackers: TensorBoard, Weights & Biases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from rl4vlm.core.files import jsonable
from rl4vlm.results.provenance import PACKAGE


class _Sink(Protocol):
    def log(self, line: Mapping[str, Any], *, step: int) -> None: ...

    def close(self) -> None: ...


class MetricSinks:
    """Passes a line of metrics on to every logger that was asked for."""

    def __init__(self, sinks: Sequence[_Sink]) -> None:
        self._sinks = sinks

    def log(self, line: Mapping[str, Any], *, step: int) -> None:
        """Log the numbers of `line` at `step`; what is not a number is left out."""
        numbers = {
            name: float(value)
            for name, value in line.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        for sink in self._sinks:
            sink.log(numbers, step=step)


@contextmanager
def metric_sinks(loggers: Sequence[str], folder: Path, settings: Any) -> Iterator[MetricSinks]:
    """The optional metric loggers of a run: any of `tensorboard` and `wandb`.

    Raises:
        ValueError: an unknown logger, or one whose package is not installed.
    """
    unknown = [name for name in loggers if name not in _SINKS]
    if unknown:
        raise ValueError(f"no metric logger {unknown[0]!r}; there are {', '.join(_SINKS)}")
    with ExitStack() as opened:
        sinks: list[_Sink] = []
        for name in loggers:
            sink = _SINKS[name](folder, settings)
            opened.callback(sink.close)
            sinks.append(sink)
        yield MetricSinks(sinks)


class _TensorBoard:
    """TensorBoard event files in `folder`/tensorboard."""

    def __init__(self, folder: Path, settings: Any) -> None:
        writer = _optional("tensorboard.summary.writer.event_file_writer", "tensorboard")
        self._event = _optional("tensorboard.compat.proto.event_pb2", "tensorboard").Event
        self._summary = _optional("tensorboard.compat.proto.summary_pb2", "tensorboard").Summary
        self._writer = writer.EventFileWriter(str(folder / "tensorboard"))

    def log(self, line: Mapping[str, Any], *, step: int) -> None:
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in line.items()]
        now = datetime.now(UTC).timestamp()
        self._writer.add_event(self._event(wall_time=now, step=step, summary=self._summary(value=values)))

    def close(self) -> None:
        self._writer.close()


class _WandB:
    """A Weights & Biases run named after `folder`."""

    def __init__(self, folder: Path, settings: Any) -> None:
        wandb = _optional("wandb", "wandb")
        self._run = wandb.init(project=PACKAGE, name=folder.name, dir=str(folder), config=jsonable(settings))

    def log(self, line: Mapping[str, Any], *, step: int) -> None:
        self._run.log(dict(line), step=step)

    def close(self) -> None:
        self._run.finish()


_SINKS: dict[str, Callable[[Path, Any], _Sink]] = {"tensorboard": _TensorBoard, "wandb": _WandB}


def _optional(module: str, package: str) -> ModuleType:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(f"metric logger {package!r} needs its package: pip install {package}") from error
