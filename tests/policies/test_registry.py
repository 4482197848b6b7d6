"""Making policies from their names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name

import pytest

from rl4vlm.config.scripted import SCRIPTED
from rl4vlm.core.types import Style
from rl4vlm.policies import registry
from rl4vlm.policies.registry import checkpoint_of, make_policy
from rl4vlm.policies.scripted import RandomPolicy, SolverPolicy


def test_scripted_policies_by_name() -> None:
    assert isinstance(make_policy("random", Style.COT, temperature=0.2), RandomPolicy)
    solver = make_policy("solver", Style.ACTION_ONLY)
    assert isinstance(solver, SolverPolicy)
    assert solver.style is Style.ACTION_ONLY


def test_scripted_policies_load_no_torch() -> None:
    code = (
        "import sys; from rl4vlm.policies.registry import make_policy; from rl4vlm.core.types import Style;"
        "make_policy('solver', Style.COT); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_folder_or_a_hub_name_is_a_vlm_and_a_kind_may_come_first(tmp_path: Path) -> None:
    assert checkpoint_of(str(tmp_path)) == ("vlm", str(tmp_path))
    assert checkpoint_of("llava-hf/llava-1.5-7b-hf") == ("vlm", "llava-hf/llava-1.5-7b-hf")
    assert checkpoint_of(f"vlm:{tmp_path}") == ("vlm", str(tmp_path))


@pytest.mark.parametrize("name", ["rnadom", "./nowhere/checkpoint", "/no/where", "results/ppo", "runs/typo", "a/b/c"])
def test_anything_else_is_named_with_what_there_is(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a run's results would make some of these names real
    (tmp_path / "runs").mkdir()
    with pytest.raises(ValueError, match=rf"no policy '{name}'.*random, stand17, solver"):
        make_policy(name, Style.COT)


def test_a_learned_policy_is_loaded_with_the_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.LEARNED, "vlm", "tests.policies.test_registry:Loaded")
    policy = make_policy(str(tmp_path), Style.COT, temperature=0.2)
    assert vars(policy) == {"checkpoint": str(tmp_path), "options": {"temperature": 0.2}}


class Loaded:
    @classmethod
    def load(cls, checkpoint: str, **options: object) -> Loaded:
        loaded = cls()
        loaded.checkpoint, loaded.options = checkpoint, options  # type: ignore[attr-defined]
        return loaded


def test_every_registered_object_is_there() -> None:
    scripted = [row.policy for row in SCRIPTED.values()]
    for path in (*scripted, *registry.LEARNED.values()):
        assert hasattr(resolve_name(path), "act")


@pytest.mark.parametrize("name", ["cnn:somewhere", "api:gpt", "served:somewhere"])
def test_an_option_of_vision_language_models_is_refused_elsewhere(name: str) -> None:
    with pytest.raises(ValueError, match=f"quantize is for a vision-language model .* not for '{name}'"):
        make_policy(name, Style.COT, temperature=1.0, max_new_tokens=1, quantize="4bit")
