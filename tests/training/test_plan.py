"""What a config's jobs need: sizes from the model's shapes, and hours from rates, or formulas without rates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rl4vlm.config.load import merge
from rl4vlm.config.stages.memory import MemorySettings
from rl4vlm.envs.alfworld.env import MAX_STEPS
from rl4vlm.models.memory import estimate
from rl4vlm.tasks.base import CardTask
from rl4vlm.tasks.registry import TASKS, get_task
from rl4vlm.training.plan import LONGEST_EPISODES, Rates, plan
from tests.config.test_config_files import laid_over

SHAPE = "SmolVLM2-2.2B"
"""The smallest known shape: it is built in the shortest time."""


def rows(text: str) -> dict[str, list[str]]:
    """The cells of each row by its stage."""
    cells = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in cells[1:]}


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return laid_over("paper", {"tasks": ["NumberLine"], "ablations": None, "seeds": [1, 2]})


def test_sizes_and_formulas_of_the_papers_config(config: dict[str, Any]) -> None:
    shown = plan(config, SHAPE, Rates())
    found = rows(shown)
    sft = estimate(SHAPE, MemorySettings(lora_rank=0, micro_batch_size=4))
    tasks, jobs, gpu, running, kept, hours = found["sft"]
    # Two styles and two seeds; three states, and a checkpoint per job.
    assert (tasks, jobs, gpu) == ("NumberLine", "4", f"{sft.training / 1e9:.1f}")
    assert running == f"{3 * sft.state / 1e9:.1f}"
    assert float(kept) == pytest.approx(4 * sft.weights / 1e9, abs=0.05)
    assert hours == "20,000 / sft"
    ppo = estimate(SHAPE, MemorySettings(num_envs=2, micro_batch_size=4, gradient_checkpointing=False))
    assert found["ppo"][1:] == [
        "4",
        f"{(ppo.training + ppo.cache) / 1e9:.1f}",
        f"{3 * ppo.state / 1e9:.1f}",
        f"{4 * 2 * 4 * ppo.trainable / 1e9:.1f}",  # the last policy of each run, and the best
        # 29 updates: validations after the 10th, the 20th and the last, each of 50 episodes of up to 10 steps.
        "30,000 x (1/played + 1/scored + 4/trained) + up to 1,500/played",
    ]
    assert found["evaluation"][1] == "8"
    # PPO's checkpoint is the base model with its adapters.
    evaluated = estimate(SHAPE, MemorySettings(train=False))
    assert found["evaluation"][2:5] == [f"{evaluated.playing / 1e9:.1f}", "0.0", "0.0"]
    assert "no rate of a GPU was measured by this project" in shown


def test_kept_policies_are_evaluated_by_jobs_of_their_own() -> None:
    kept = {"tasks": ["ALFWorld"], "styles": ["cot"], "ppo": {"defaults": {"keep_checkpoints": 2}}}
    found = rows(plan(laid_over("paper", kept), SHAPE, Rates()))
    # Five updates: those after the second and the fourth are kept, and the best by validation. Every other checkpoint
    # plays both sets in one job.
    assert (found["evaluation"][1], found["evaluation"][-1]) == ("2", "up to 2 x 200 episodes")
    assert (found["evaluation of kept policies"][1], found["evaluation of kept policies"][-1]) == (
        "3",
        "up to 200 episodes",
    )


def test_rates_make_hours(config: dict[str, Any]) -> None:
    found = rows(plan(config, SHAPE, Rates(played=4.0, scored=10.0, trained=5.0, sft=2.0)))
    # 30,000 steps: 1/4 s to play, 1/10 s to score again, 4 epochs of 1/5 s. 1,500 steps of validations: 1/4 s to play.
    assert found["ppo"][-1] == "up to 9.7"
    assert found["sft"][-1] == "2.8"


@pytest.mark.parametrize(
    ("changed", "passes"),
    [
        ({"dtype": "float32", "importance_cap": None}, 0),
        ({"dtype": "float32", "importance_cap": 2.0}, 1),
        ({"importance_cap": None}, 1),
        ({"importance_cap": 2.0}, 1),
    ],
)
def test_a_pass_that_scores_again_is_counted_once(changed: dict[str, Any], passes: int) -> None:
    """A rollout is scored again below float32, and for importance weights."""
    laid = {"tasks": ["NumberLine"], "ablations": None, "ppo": {"defaults": changed}}
    hours = rows(plan(laid_over("paper", laid), SHAPE, Rates()))["ppo"][-1]
    assert hours.count("1/scored") == passes


@pytest.mark.parametrize(
    ("validations", "formula", "hours"),
    [
        ({"validation_every": 0}, "30,000 x (1/played + 1/scored + 4/trained)", "9.6"),
        # All 29 updates, and the last only once.
        (
            {"validation_every": 1, "validation_episodes": 10},
            "30,000 x (1/played + 1/scored + 4/trained) + 290 episodes x steps per episode/played",
            "9.6 + 290 episodes",
        ),
    ],
)
def test_validations_of_a_game_whose_longest_episode_is_unknown(
    validations: dict[str, int], formula: str, hours: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(LONGEST_EPISODES, "NumberLine")
    laid = laid_over("paper", {"tasks": ["NumberLine"], "ablations": None, "ppo": {"defaults": validations}})
    assert rows(plan(laid, SHAPE, Rates()))["ppo"][-1] == formula
    assert rows(plan(laid, SHAPE, Rates(played=4.0, scored=10.0, trained=5.0)))["ppo"][-1] == hours


def test_every_game_of_this_package_has_a_longest_episode() -> None:
    assert LONGEST_EPISODES.keys() == TASKS.keys()
    assert LONGEST_EPISODES["ALFWorld"] == MAX_STEPS


@pytest.mark.parametrize(
    ("name", "options", "action"),
    [
        ("NumberLine", {"current": 0, "target": 5}, "-"),
        ("EZPoints", {}, "1"),
        ("Points24", {}, "1"),
        ("Blackjack", {"player": ["SA", "SA"]}, "hit"),
    ],
)
def test_longest_episodes(name: str, options: dict[str, Any], action: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The actions that keep an episode going end it after exactly this many steps."""
    monkeypatch.setattr("rl4vlm.tasks.blackjack.draw", lambda rng: "SA")
    task, rng = get_task(name), np.random.default_rng(0)
    assert isinstance(task, CardTask)
    state, steps, over = task.start(rng, options), 0, False
    while not over:
        after = task.transition(state, action, rng)
        state, steps, over = after.state, steps + 1, after.terminated or after.truncated
    assert steps == LONGEST_EPISODES[name]


def test_stages_without_an_estimate_show_what_the_config_grants() -> None:
    overlay = {
        "tasks": ["NumberLine", "Blackjack"],
        "ablations": None,
        "seeds": [1, 2, 3],
        "sft_data": {"given": {"NumberLine-cot": "data/nl.json"}},
        "cnn": {"skip": ["Blackjack"]},
    }
    config = laid_over("paper", overlay)
    shown = plan(config, SHAPE, Rates(played=4.0, scored=10.0, trained=5.0, sft=2.0))
    made = [line for line in shown.splitlines() if line.startswith("| sft_data")]
    needs = "no GPU; 12.0 of RAM | not estimated | not estimated | unknown; 24.0 granted |"
    # All seeds share the demonstrations of a style; those of NumberLine with thoughts are given.
    assert made == [f"| sft_data | NumberLine | 1 | {needs}", f"| sft_data | Blackjack | 2 | {needs}"]
    assert [line.split(" | ")[1:4] for line in shown.splitlines() if line.startswith("| cnn")] == [
        ["NumberLine", "3", "no GPU; 8.0 of RAM"]
    ]
    granted = merge(config, {"resources": {"cnn": {"gpu": 1, "runtime": 90}}})
    assert rows(plan(granted, SHAPE, Rates()))["cnn"][2:] == [
        "GPU memory not estimated; 8.0 of RAM",
        "not estimated",
        "not estimated",
        "unknown; 1.5 granted",
    ]
    assert "| cnn |" not in plan({**config, "cnn": None}, SHAPE, Rates())


def test_an_embedded_model_needs_a_name() -> None:
    with pytest.raises(ValueError, match=r"NumberLine starts from an embedded model.*--model"):
        plan(laid_over("default", {"tasks": ["NumberLine"]}), None, Rates())
