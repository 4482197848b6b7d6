"""Registration with Gymnasium: on import, of every task, without loading what a job does not use."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path

import gymnasium
import pytest

from rl4vlm.envs import registration
from rl4vlm.tasks import registry
from rl4vlm.tasks.number_line import NumberLine

ROOT = Path(__file__).parents[2]


def told(script: Sequence[str]) -> str:
    """What a Python prints that is given these words."""
    return subprocess.run([sys.executable, *script], capture_output=True, text=True, check=True, cwd=ROOT).stdout


MODULES = "print(sorted(m for m in ('torch', 'matplotlib', 'pandas', 'transformers') if m in sys.modules))"


def test_gymnasium_imports_and_makes_a_game_in_one_call() -> None:
    script = (
        "import gymnasium, sys\n"
        "for name in ('NumberLine', 'EZPoints', 'Points24', 'Blackjack'):\n"
        "    env = gymnasium.make(f'rl4vlm.envs:gym_cards/{name}-v0', rules='upstream')\n"
        "    print(env.reset(seed=0)[0].shape)\n"
        f"{MODULES}\n"
    )
    assert told(["-W", "error", "-c", script]).split("\n")[:5] == ["(300, 300, 3)"] * 4 + ["[]"]


def test_importing_the_package_registers_every_game_and_loads_no_model_library() -> None:
    script = (
        "import sys, rl4vlm.envs, gymnasium\n"
        "print(sum(name.startswith('gym_cards/') for name in gymnasium.registry))\n"
        f"{MODULES}\n"
    )
    games = [entry for entry in registry.TASKS.values() if entry.gym_id.startswith("gym_cards/")]
    assert told(["-W", "error", "-c", script]).split("\n")[:2] == [str(len(games)), "[]"]


def test_gymnasium_alone_imports_nothing_of_this_package() -> None:
    """A file in site-packages that imported it would hide a second checkout on sys.path."""
    script = "import gymnasium, sys; print(any(name.partition('.')[0] == 'rl4vlm' for name in sys.modules))"
    assert told(["-c", script]).strip() == "False"


def test_registering_twice_is_quiet() -> None:
    registration.register_all()
    registration.register_all()


def test_importing_the_package_loads_no_task() -> None:
    """A job of one task must not depend on the code of another."""
    script = (
        "import sys, rl4vlm.envs\n"
        "loaded = {name for name in sys.modules if name.startswith(('rl4vlm.tasks.', 'rl4vlm.envs.'))}\n"
        "print(*sorted(loaded))\n"
    )
    expected = ["rl4vlm.envs.registration", "rl4vlm.tasks.base", "rl4vlm.tasks.check", "rl4vlm.tasks.registry"]
    assert told(["-c", script]).split() == expected


class Walk(NumberLine):
    name = "Walk"
    gym_id = "walks/Walk-v0"


def test_tasks_of_other_packages_are_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("Walk", f"{__name__}:Walk", registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    try:
        registration.register_all()
        assert gymnasium.make("walks/Walk-v0").unwrapped.task.name == "Walk"  # type: ignore[attr-defined]
    finally:
        gymnasium.registry.pop("walks/Walk-v0", None)


class Copied(NumberLine):
    """A copy of a task in which somebody forgot to change the ID."""

    name = "Copied"
    gym_id = "gym_cards/NumberLine-v0"


def test_two_tasks_with_one_gym_id_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second would play the first one's game."""
    point = EntryPoint("Copied", f"{__name__}:Copied", "rl4vlm.tasks")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    registration.make_env("NumberLine").close()
    with pytest.raises(
        ValueError, match="task 'Copied': its gym_id 'gym_cards/NumberLine-v0' is already that of NumberLine"
    ):
        registration.make_env("Copied")


def test_environments_need_neither_torch_nor_matplotlib() -> None:
    modules = "rl4vlm.envs.registration, rl4vlm.envs.card_env"
    script = f"import sys, {modules}; print([m for m in ('torch', 'matplotlib', 'pandas') if m in sys.modules])"
    assert told(["-c", script]).strip() == "[]"


def test_the_benchmark_prints_every_game() -> None:
    lines = told(["benchmarks/env_steps.py", "--steps", "50"]).split("\n")
    assert [line.split(" | ")[0] for line in lines[2:6]] == ["| NumberLine", "| EZPoints", "| Points24", "| Blackjack"]


class WithHint:
    def __init__(self, task: str, lives: registration.NotThere) -> None:  # type: ignore[name-defined]
        pass


def test_hints_that_cannot_be_evaluated_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "_env_class", lambda task: WithHint)
    assert registration.env_types("Anything") == {}
