import subprocess
import sys
from pathlib import Path

import gymnasium

from rl4vlm.envs import registration
from rl4vlm.tasks import registry

ROOT = Path(__file__).parents[2]


def told(script):
    return subprocess.run([sys.executable, *script], capture_output=True, text=True, check=True, cwd=ROOT).stdout


MODULES = "print(sorted(m for m in ('torch', 'matplotlib', 'pandas', 'transformers') if m in sys.modules))"


def test_gymnasium_imports_and_makes_a_game_in_one_call():
    script = (
        "import gymnasium, sys\n"
        "for name in ('NumberLine', 'EZPoints', 'Points24', 'Blackjack'):\n"
        "    env = gymnasium.make(f'rl4vlm.envs:gym_cards/{name}-v0', rules='upstream')\n"
        "    print(env.reset(seed=0)[0].shape)\n"
        f"{MODULES}\n"
    )
    assert told(["-W", "error", "-c", script]).split("\n")[:5] == ["(300, 300, 3)"] * 4 + ["[]"]


def test_importing_the_package_registers_every_game_and_loads_no_model_library():
    script = (
        "import sys, rl4vlm.envs, gymnasium\n"
        "print(sum(name.startswith('gym_cards/') for name in gymnasium.registry))\n"
        f"{MODULES}\n"
    )
    assert told(["-W", "error", "-c", script]).split("\n")[:2] == ["4", "[]"]


def test_gymnasium_alone_imports_nothing_of_this_package():
    """A file in site-packages that imported it would hide a second checkout on sys.path."""
    script = "import gymnasium, sys; print(any(name.partition('.')[0] == 'rl4vlm' for name in sys.modules))"
    assert told(["-c", script]).strip() == "False"


def test_registering_twice_is_quiet():
    registration.register_all()
    registration.register_all()


def test_other_packages_tasks_are_registered(monkeypatch):
    class Walk(registry.get_task_class("NumberLine")):
        name = "Walk"
        gym_id = "gym_cards/Walk-v0"

    monkeypatch.setattr(registry, "TASKS", registry.TASKS | {"Walk": "walk:Walk"})
    monkeypatch.setitem(sys.modules, "walk", type(sys)("walk"))
    sys.modules["walk"].Walk = Walk
    try:
        registration.register_all()
        assert gymnasium.make("gym_cards/Walk-v0").unwrapped.task.name == "Walk"
    finally:
        gymnasium.registry.pop("gym_cards/Walk-v0", None)


def test_environments_need_neither_torch_nor_matplotlib():
    modules = "rl4vlm.envs.registration, rl4vlm.envs.card_env"
    script = f"import sys, {modules}; print([m for m in ('torch', 'matplotlib', 'pandas') if m in sys.modules])"
    assert told(["-c", script]).strip() == "[]"


def test_the_benchmark_prints_every_game():
    lines = told(["benchmarks/env_steps.py", "--steps", "50"]).split("\n")
    assert [line.split(" | ")[0] for line in lines[2:6]] == ["| NumberLine", "| EZPoints", "| Points24", "| Blackjack"]
