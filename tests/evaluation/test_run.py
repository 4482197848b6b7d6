"""Held-out evaluation: what it plays, what it counts, what it writes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from rl4vlm.config.stages.evaluation import EvaluationSettings
from rl4vlm.core.output import UNFINISHED
from rl4vlm.core.seeding import TRAINING_SEEDS_FROM, stream
from rl4vlm.core.types import PlayStopped, Reply, Request, Style
from rl4vlm.envs.registration import make_env
from rl4vlm.evaluation.run import _protocol, run, run_sets
from rl4vlm.policies.scripted import RandomPolicy, SolverPolicy
from rl4vlm.results.intervals import wilson
from rl4vlm.tasks.base import CardTask
from rl4vlm.tasks.registry import get_task
from tests.fakes import FakePolicy


def evaluate(
    out: Path, policy: Any = "random", task: str = "NumberLine", style: Style = Style.COT, **changes: Any
) -> dict[str, Any]:
    settings = EvaluationSettings(**{"episodes": 30, **changes})
    return run(policy=policy, task=task, style=style, out=out, settings=settings)


def lines_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]


def test_the_solver_wins_and_reads_everything(tmp_path: Path) -> None:
    summary = evaluate(tmp_path, "solver")
    assert json.loads((tmp_path / "summary.json").read_text()) == json.loads(json.dumps(summary))
    assert (summary["successes"], summary["episodes"], summary["success_rate"]) == (30, 30, 100.0)
    assert (summary["ci_low"], summary["ci_high"]) == tuple(100 * bound for bound in wilson(30, 30))
    assert (summary["mean_return"], summary["fallback_rate"]) == (1.0, 0.0)
    assert summary["perception_accuracy"] == {"current number": 1.0, "target number": 1.0}
    assert (summary["method"], summary["kind"], summary["lambda"], summary["seed"]) == (
        "solver",
        "scripted",
        None,
        None,
    )
    assert (summary["task"], summary["style"], summary["protocol"]) == ("NumberLine", "cot", "held_out")
    assert summary["logprob_thoughts"] is summary["logprob_action"] is None


def test_several_sets_of_games_in_one_process_are_as_each_by_itself(tiny_checkpoint: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"policy": str(tiny_checkpoint), "task": "NumberLine", "style": Style.COT}
    settings = [
        EvaluationSettings(episodes=3, num_envs=2, max_new_tokens=8, seed_base=base, games=games)
        for base, games in ((0, "seen"), (50, "unseen"))
    ]
    sets = dict(zip((tmp_path / "a", tmp_path / "a@unseen"), settings, strict=True))
    together = run_sets(**options, sets=sets)
    apart = [run(**options, out=tmp_path / one.games, settings=one) for one in settings]
    assert together == apart
    assert lines_of(tmp_path / "a@unseen") == lines_of(tmp_path / "unseen") != lines_of(tmp_path / "seen")
    with pytest.raises(ValueError, match="differ in how the policy is loaded"):
        run_sets(**options, sets={tmp_path / "x": settings[0], tmp_path / "y": EvaluationSettings(temperature=0.1)})


def test_where_one_set_of_games_fails_none_is_written(tmp_path: Path) -> None:
    sets = {tmp_path / name: EvaluationSettings(episodes=2, env=env) for name, env in (("a", {}), ("b", {"no": 1}))}
    with pytest.raises(ValueError, match="no environment option"):
        run_sets(policy="random", task="NumberLine", style=Style.COT, sets=sets)
    assert not any((tmp_path / name / "summary.json").exists() for name in "ab")


def test_no_game_is_played_twice_if_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="each_game_once: NumberLine has no fixed set of games"):
        evaluate(tmp_path, each_game_once=True)

    def of_four_games(task: str, **options: Any) -> Any:
        env: Any = make_env(task, **options)
        env.game_count = 4
        return env

    monkeypatch.setattr("rl4vlm.evaluation.run.make_env", of_four_games)
    for asked, played in ((30, 4), (3, 3)):
        summary = evaluate(tmp_path, each_game_once=True, episodes=asked)
        assert (summary["episodes"], summary["partial"]) == (played, False)


def test_where_the_policy_stops_play_the_episodes_before_the_first_unfinished_one_count(tmp_path: Path) -> None:
    class Tires(RandomPolicy):
        def __init__(self, batches: int) -> None:
            super().__init__()
            self.batches = batches

        def act(self, requests: Sequence[Request]) -> list[Reply]:
            self.batches -= 1
            if self.batches < 0:
                time.sleep(0.2)
                raise PlayStopped("tired")
            return super().act(requests)

    evaluate(tmp_path / "whole", num_envs=4)
    for batches in range(10, 40, 5):
        summary = evaluate(tmp_path / "part", Tires(batches), num_envs=4)
        assert (summary["partial"], summary["stopped"]) == (True, "tired")
        assert 0 < summary["episodes"] < 30
        assert lines_of(tmp_path / "part") == lines_of(tmp_path / "whole")[: summary["episodes"]]
        # The time of the turn that was not finished counts, too.
        assert json.loads((tmp_path / "part" / "run.json").read_text())["seconds"] >= 0.2
    with pytest.raises(ValueError, match="not one episode was finished: tired"):
        evaluate(tmp_path / "none", Tires(0))


def test_totals_are_those_of_the_lines(tmp_path: Path) -> None:
    summary = evaluate(tmp_path)
    lines = lines_of(tmp_path)
    assert summary["successes"] == sum(line["success"] for line in lines)
    assert 0 < summary["successes"] < 30
    assert summary["mean_return"] == sum(line["return"] for line in lines) / 30
    assert [line["episode"] for line in lines] == list(range(30))
    for line in lines:
        assert line["length"] == len(line["steps"])
        assert line["return"] == sum(step["reward"] for step in line["steps"])
        assert line["success"] == (line["return"] > 0)


def test_an_episode_can_be_replayed_from_its_line(tmp_path: Path) -> None:
    evaluate(tmp_path, task="Points24", episodes=5)
    actions = cast(CardTask, get_task("Points24")).actions
    for line in lines_of(tmp_path):
        env = make_env("Points24")
        env.reset(seed=line["seed"])
        for step in line["steps"]:
            _, reward, terminated, truncated, _ = env.step(actions.index(step["action"]))
            assert reward == step["reward"]
        assert terminated or truncated


@pytest.mark.parametrize(("split", "protocol"), [("train", "training_games"), ("valid_seen", "held_out")])
def test_games_of_training_are_not_called_held_out(split: str, protocol: str) -> None:
    assert _protocol(get_task("ALFWorld"), {"split": split}) == protocol
    assert _protocol(get_task("ALFWorld"), {}) == "training_games"  # the environment's default
    assert _protocol(get_task("EZPoints"), {}) == "held_out"


def test_seeds_are_fixed_and_never_those_of_training(tmp_path: Path) -> None:
    summary = evaluate(tmp_path)
    assert summary["seeds"] == list(range(1_000_000_000, 1_000_000_030))
    assert evaluate(tmp_path, seed_base=5, episodes=2)["seeds"] == [5, 6]
    with pytest.raises(ValueError, match=r"seed_base\n.*greater than or equal to 0"):
        EvaluationSettings(seed_base=-1, episodes=2)
    with pytest.raises(ValueError, match=f"seed_base {TRAINING_SEEDS_FROM - 1}"):
        EvaluationSettings(seed_base=TRAINING_SEEDS_FROM - 1, episodes=2)
    with pytest.raises(ValueError, match="episodes"):
        EvaluationSettings(episodes=0)


def test_width_changes_nothing(tmp_path: Path) -> None:
    for width in (1, 8):
        evaluate(tmp_path / str(width), task="EZPoints", num_envs=width)
    one, eight = ((tmp_path / name / "episodes.jsonl").read_bytes() for name in ("1", "8"))
    assert one == eight


def test_fallbacks_are_counted_with_their_reasons(tmp_path: Path) -> None:
    words = ["none", '{"action": "both + and -"}', '{"action": "fold"}', '{"action": "+"}']
    said = iter(words * 1000)
    summary = evaluate(tmp_path, FakePolicy(lambda request: next(said)), episodes=20, num_envs=1)
    steps = [step for line in lines_of(tmp_path) for step in line["steps"]]
    assert (
        summary["fallback_rate"]
        == sum(step["fallback"] for step in steps) / len(steps)
        == pytest.approx(0.75, abs=0.05)
    )
    assert set(summary["outcomes"]) == {"no_action_key", "ambiguous_action", "no_legal_action", "ok"}
    assert sum(summary["outcomes"].values()) == len(steps)
    assert sum(line["fallbacks"] for line in lines_of(tmp_path)) == sum(step["fallback"] for step in steps)


def test_perception_is_counted_by_field_where_there_are_thoughts(tmp_path: Path) -> None:
    class Shortsighted(SolverPolicy):
        def act(self, requests: Any) -> list[Reply]:
            return [
                Reply(
                    reply.text.replace('"target number": 3', '"target number": 8').replace(
                        '"target number": 4', '"goal": 4'
                    )
                )
                for reply in super().act(requests)
            ]

    summary = evaluate(tmp_path / "cot", Shortsighted())
    assert summary["perception_accuracy"]["current number"] == 1.0
    lines = lines_of(tmp_path / "cot")
    counts = summary["perception"]["target number"]
    assert counts == {mark: sum(line["perception"]["target number"][mark] for line in lines) for mark in counts}
    assert sum(counts.values()) == sum(line["length"] for line in lines)
    assert counts["right"] > 0
    assert counts["wrong"] > 0
    assert counts["not_stated"] > 0
    assert summary["perception_accuracy"]["target number"] == counts["right"] / (counts["right"] + counts["wrong"])
    assert Counter(step["perception"]["target number"] for line in lines for step in line["steps"]) == Counter(counts)
    assert evaluate(tmp_path / "nocot", "solver", style=Style.ACTION_ONLY)["perception_accuracy"] == {}


def test_a_learned_policys_numbers_are_recorded_and_averaged(tmp_path: Path) -> None:
    class Learned(RandomPolicy):
        def act(self, requests: Any) -> list[Reply]:
            numbers = {"logprob_thoughts": -3.0, "logprob_action": -0.5, "value": 0.1, "tokens": 7.0}
            return [Reply(reply.text, numbers, replay_item=object()) for reply in super().act(requests)]

    summary = evaluate(tmp_path, Learned(), episodes=3)
    assert (summary["logprob_thoughts"], summary["logprob_action"], summary["reply_tokens"]) == (-3.0, -0.5, 7.0)
    assert all(step["value"] == 0.1 for line in lines_of(tmp_path) for step in line["steps"])
    assert (summary["method"], summary["kind"], summary["policy"]) == ("Learned", "checkpoint", "Learned")


def test_every_episode_has_a_sampling_stream_of_its_own(tmp_path: Path) -> None:
    first: dict[int, float] = {}

    def speak(request: Request) -> str:
        first.setdefault(len(first), request.rng.random())
        return '{"action": "+"}'

    evaluate(tmp_path, FakePolicy(speak), episodes=3, num_envs=3)
    assert [first[k] for k in range(3)] == [stream(1_000_000_000 + k, "sampling").random() for k in range(3)]


def test_lines_come_as_they_are_played_and_an_interrupted_run_leaves_the_result_before_it(tmp_path: Path) -> None:
    evaluate(tmp_path, "solver")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def stop(request: Request) -> str:
        if len(lines_of(tmp_path / UNFINISHED)) == 3:
            raise KeyboardInterrupt
        return '{"action": "+"}'

    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path, FakePolicy(stop), num_envs=1)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_prompt_and_environment_options_are_passed_on(tmp_path: Path) -> None:
    policy = FakePolicy('{"action": "="}')
    evaluate(tmp_path, policy, task="EZPoints", episodes=1, prompt={"role": "Hello."})
    assert policy.batches[0][0].prompt.startswith("Hello.\n")
    with pytest.raises((ValueError, TypeError), match="rules"):
        evaluate(tmp_path, policy, task="EZPoints", env={"rules": "soft"})


def test_the_record_names_what_was_evaluated(tmp_path: Path) -> None:
    evaluate(tmp_path, "solver", episodes=1)
    record = json.loads((tmp_path / "run.json").read_text())
    assert (record["stage"], record["settings"]["policy"], record["inputs"]) == ("evaluation", "solver", {})
    assert record["seeds"] == {"episodes": [1_000_000_000, 1_000_000_000]}


def test_a_task_without_groups_has_neither(tmp_path: Path) -> None:
    summary = evaluate(tmp_path, "solver", episodes=2)
    assert not {"groups", "data_sources", "skipped_games"} & set(summary)
    assert not {"group", "data_source"} & set(lines_of(tmp_path)[0])


def test_needs_no_torch() -> None:
    code = "import sys, rl4vlm.evaluation.run; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
