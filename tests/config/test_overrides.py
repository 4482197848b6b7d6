"""Settings from words and back."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import dataclass, field, fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rl4vlm.config.fields import LARGEST
from rl4vlm.config.load import stage_settings
from rl4vlm.config.overrides import (
    parse_settings,
    setting_words,
    stage_arguments,
)
from rl4vlm.config.schema import STAGES
from rl4vlm.config.settings import build_settings
from rl4vlm.config.stages.sft import SFTSettings
from tests.config.test_config_files import OVERLAYS, resolved


@dataclass(frozen=True)
class Sizes:
    width: int = 8


@dataclass(frozen=True)
class Some:
    steps: int = 10
    rate: float = 0.1
    name: str = "a"
    limit: float | None = None
    flag: bool = False
    loggers: tuple[str, ...] = ()
    env: dict[str, Any] = field(default_factory=dict)
    prompt: dict[str, str] = field(default_factory=dict)
    sizes: Sizes = Sizes()

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"steps {self.steps} is negative")


TEXT = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=12)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-LARGEST, LARGEST)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@dataclass(frozen=True)
class One:
    value: Any = None


class TestSettings:
    def test_words_set_what_they_name_and_nothing_else(self) -> None:
        words = [
            "steps=5",
            "rate=1e-5",
            "name=cuda:1",
            "limit=null",
            "flag=true",
            "loggers=[tensorboard]",
            'env={"rules": "strict"}',
            "prompt.role=You are {x}=y.",
            "sizes.width=4",
        ]
        expected = Some(
            5, 1e-5, "cuda:1", None, True, ("tensorboard",), {"rules": "strict"}, {"role": "You are {x}=y."}, Sizes(4)
        )
        assert parse_settings(Some, words) == expected
        assert parse_settings(Some, []) == Some()

    def test_dotted_words_add_up(self) -> None:
        assert parse_settings(Some, ["env.a=1", "env.b=x", 'env={"c": 2}']).env == {"a": 1, "b": "x", "c": 2}

    @pytest.mark.parametrize(
        ("word", "what"),
        [
            ("stps=5", "unknown setting 'stps'; did you mean steps"),
            ("zzz=5", "unknown setting 'zzz'; known: steps, rate"),
            ("sizes.widht=5", r"unknown setting 'sizes\.widht'; did you mean width"),
            ("steps", "'steps' is not of the form key=value"),
            ("steps=many", "steps='many'.*integer"),
            ("steps=1.5", r"steps=1\.5.*integer"),
            ("flag=7", "flag=7.*boolean"),
            ("prompt={role", r"prompt: the value begins with {, but is neither JSON nor YAML \(wrong at character 6\)"),
            (f"prompt=[{'1' * 5000}", r"setting prompt: the value begins with \[, but is neither"),
            (f"prompt={'[' * 500}", r"setting prompt: the value begins with \[, but is neither"),
            ("steps=-1", "steps -1 is negative"),
        ],
    )
    def test_a_wrong_word_is_named(self, word: str, what: str) -> None:
        with pytest.raises(ValueError, match=what):
            parse_settings(Some, [word])

    def test_a_broken_value_is_not_shown(self) -> None:
        with pytest.raises(ValueError, match="setting prompt") as error:
            parse_settings(Some, ["prompt={base_url: https://me:password@host/v1, model"])
        assert "password" not in str(error.value)

    def test_a_mapping_does_as_well(self) -> None:
        assert build_settings(Some, {"steps": 3, "sizes": {"width": 2}}) == Some(steps=3, sizes=Sizes(2))
        with pytest.raises(ValueError, match="stps"):
            build_settings(Some, {"stps": 3})

    @hypothesis_settings(deadline=None)
    @given(value=JSON)
    def test_any_value_goes_through_the_command_line_unchanged(self, value: Any) -> None:
        assert parse_settings(One, setting_words({"value": value})).value == value

    def test_a_real_shell_passes_them_on(self) -> None:
        settings = {"role": 'It\'s $HOME "quoted"; `ls` {a}\nnew line', "tasks": ["a", "b"], "device": "cuda:1"}
        words = setting_words(settings)
        passed = subprocess.run(
            f"printf '%s\\0' {shlex.join(words)}", shell=True, capture_output=True, text=True, check=True
        )

        @dataclass(frozen=True)
        class Same:
            role: str
            tasks: list[str]
            device: str

        assert vars(parse_settings(Same, passed.stdout.split("\0")[:-1])) == settings
        assert "device=cuda:1" in words


@pytest.mark.parametrize("name", OVERLAYS)
def test_a_jobs_command_gives_its_stage_the_settings_of_the_config(name: str) -> None:
    config = resolved(name)
    for task in config["tasks"]:
        for stage, kind in STAGES.items():
            settings = stage_settings(config, stage, task)
            words = stage_arguments(kind, settings)
            assert words == sorted(words)
            assert {word.partition("=")[0] for word in words} == {item.name for item in fields(kind)}
            assert parse_settings(kind, words) == build_settings(kind, settings)


def test_a_command_is_the_same_however_its_settings_were_written() -> None:
    first = {"rate": 1.0, "steps": 5, "env": {"a": 1, "b": 2}, "sizes": {"width": 3}}
    second = {"sizes": {"width": "3"}, "env": {"b": 2, "a": 1}, "steps": 5.0, "rate": 1, "name": "a"}
    assert stage_arguments(Some, first) == stage_arguments(Some, second)
    assert stage_arguments(Some, first, only=["steps", "rate"], but=["rate"]) == ["steps=5"]


def test_what_is_no_number_has_no_word() -> None:
    with pytest.raises(ValueError, match="JSON"):
        setting_words({"rate": float("nan")})


@pytest.mark.parametrize("pattern", ["(", "[[a]"])
def test_what_python_does_not_read_for_good_is_no_pattern(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"freeze=.*no regular expression"):
        build_settings(SFTSettings, {"freeze": pattern})
