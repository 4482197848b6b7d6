"""Documentation of the settings, made from their classes: the help of the command line, and docs/settings.md."""

from __future__ import annotations

import json
import textwrap
import types
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from rl4vlm.config.fields import LARGEST
from rl4vlm.config.schema import (
    STAGES,
    ApiModel,
    BaseModelSource,
    CNNSection,
    Config,
    EvaluationSection,
    OverHttpSection,
    Resources,
    SFTDataSection,
    TaskOptions,
)
from rl4vlm.config.settings import settings_class
from rl4vlm.config.stages.alfworld import GamesSettings
from rl4vlm.config.stages.figures import FigureSettings
from rl4vlm.config.stages.gallery import GallerySettings
from rl4vlm.config.stages.memory import MemorySettings
from rl4vlm.core.files import atomic_write_text, read_text

CHAPTERS: dict[str, tuple[type[Any], ...]] = {
    "base_model": (BaseModelSource,),
    "task_options": (TaskOptions,),
    "alfworld.generate": (GamesSettings,),
    "sft_data": (SFTDataSection, STAGES["sft_data"]),
    "sft": (STAGES["sft"],),
    "ppo": (STAGES["ppo"],),
    "cnn": (CNNSection, STAGES["cnn"]),
    "evaluation": (EvaluationSection, STAGES["evaluation"]),
    "over_http": (OverHttpSection,),
    "api_models": (ApiModel,),
    "resources": (Resources,),
    "figures.style": (FigureSettings,),
    "gallery": (GallerySettings,),
}
"""The classes that describe each section of a config: one for its own keys, if any, then one for its settings."""
_INTRO = """\
# Settings

Made from the settings classes in `rl4vlm/config/` by `make docs`: edit the docstring below a field, not this page.

The whole config is checked before anything runs; a dry run shows what is wrong. `rl4vlm STAGE --help` lists the
settings of a stage. On the command line, `--set KEY=VALUE` changes a setting, and `--set a.b=VALUE` one that is nested
in another. The defaults below are those of the command line; the values that the workflow uses are in `config/scales/`.

The sections `base_model`, `task_options`, `sft_data`, `sft`, `ppo`, `cnn` and `evaluation` have settings for all tasks
under `defaults`, and settings for single tasks under `per_task`:

```yaml
ppo:
  defaults: {learning_rate: 3.0e-5}
  per_task:
    Blackjack: {minibatch_size: 128}
```
"""


@dataclass(frozen=True)
class Setting:
    """A setting: its name, its type with its bounds, its default (None if it must be given) and its meaning."""

    name: str
    kind: str
    default: str | None
    meaning: str


def settings_of(kind: type[Any], *, above: str = "", inside: bool = True) -> Iterator[Setting]:
    """The settings of a class, in order. With `inside`, those of settings classes inside it follow, as `a.b`."""
    hints = get_type_hints(kind, include_extras=True)
    for item in fields(kind):
        hint, name = hints[item.name], f"{above}{item.name}"
        inner = settings_class(hint) if inside else None
        # A setting that can be null is listed itself, too: what null means is said nowhere else.
        if inner is None or hint is not inner:
            yield Setting(name, type_text(hint), _default_text(item), meaning(kind, item.name))
        if inner is not None:
            yield from settings_of(inner, above=f"{name}.")


def _default_text(item: Any) -> str | None:
    if item.default is not MISSING:
        value = item.default
    elif item.default_factory is not MISSING:
        value = item.default_factory()
    else:
        return None
    if settings_class(type(value)):
        return "{}"
    return json.dumps(value)


def meaning(kind: type[Any], name: str) -> str:
    """The docstring below a field, in the class itself or the nearest base class that has one."""
    for base in kind.__mro__:
        found = vars(base).get("__pydantic_fields__", {}).get(name)
        if found is not None and found.description:
            return " ".join(found.description.split())
    raise ValueError(f"{kind.__name__}.{name} has no docstring")


def type_text(hint: Any) -> str:
    """A type with its bounds, in words."""
    origin, inner = get_origin(hint), get_args(hint)
    plain = {int: "whole number", float: "number", bool: "true or false", str: "text"}
    if origin is Annotated:
        return f"{type_text(inner[0])}{_bounds(inner[1:])}"
    if origin is Literal:
        return " or ".join(map(str, inner))
    if origin in (Union, types.UnionType):
        return " or ".join("null" if part is type(None) else type_text(part) for part in inner)
    if origin is tuple:
        many = "" if inner[-1] is Ellipsis else f"{len(inner)}, each "
        return f"list of {many}{type_text(inner[0])}"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return " or ".join(str(member.value) for member in hint)
    return plain.get(hint, "mapping")


def _bounds(metadata: tuple[Any, ...]) -> str:
    limits: dict[str, Any] = {}
    for item in (inner for outer in metadata for inner in getattr(outer, "metadata", ())):
        limits |= {name: getattr(item, name) for name in ("ge", "gt", "le") if hasattr(item, name)}
    # Every whole number has this bound; it would only be noise for a reader.
    if limits.get("le") == LARGEST:
        del limits["le"]
    words = {"ge": "at least", "gt": "above", "le": "at most"}
    if {"ge", "le"} <= limits.keys():
        return f" from {limits['ge']} to {limits['le']}"
    return ",".join(f" {words[name]} {limit}" for name, limit in limits.items())


def settings_help(kind: type[Any]) -> str:
    """All settings of a class, for the end of a stage's help."""
    lines = ["", "settings (--set KEY=VALUE):"]
    for setting in settings_of(kind):
        default = "required" if setting.default is None else f"default {setting.default}"
        lines.append(f"  {setting.name}: {setting.kind}; {default}")
        lines += textwrap.wrap(setting.meaning, 100, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines) + "\n"


def settings_page() -> str:
    """docs/settings.md."""
    parts = [_INTRO, "## Keys of a config\n", _table(settings_of(Config, inside=False))]
    for name, kinds in CHAPTERS.items():
        parts.append(f"## `{name}`\n")
        *own, stage = kinds
        for kind in own:
            listed = [item for item in settings_of(kind, inside=False) if item.name not in ("defaults", "per_task")]
            parts.append(_table(listed))
        parts.append(f"{_summary(stage)}\n")
        parts.append(_table(settings_of(stage)))
    parts += ["## `rl4vlm memory`\n", "Not part of a config.\n", _table(settings_of(MemorySettings))]
    return "\n".join(parts)


def _summary(kind: type[Any]) -> str:
    return (kind.__doc__ or "").partition("\n")[0]


def _table(settings: Any) -> str:
    rows = ["| setting | type | default | meaning |", "|---|---|---|---|"]
    for setting in settings:
        default = "required" if setting.default is None else f"`{setting.default}`"
        text = setting.meaning.replace("|", "\\|")
        rows.append(f"| `{setting.name}` | {setting.kind} | {default} | {text} |")
    return "\n".join(rows) + "\n"


def write_settings_page(out: Path) -> None:
    """Write docs/settings.md to `out`."""
    page = settings_page()
    if out.exists() and not read_text(out).startswith(page.partition("\n")[0]):
        raise ValueError(f"{out} exists and is not a page of settings: name another file")
    atomic_write_text(out, page)
