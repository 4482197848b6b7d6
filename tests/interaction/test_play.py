"""The play loop: batching, fallbacks, counts, resets, and episodes that depend on their seed alone."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Generator, Sequence
from itertools import islice
from typing import Any, cast

import numpy as np
import pytest

from rl4vlm.core.seeding import TRAINING_SEEDS_FROM
from rl4vlm.core.types import Episode, GameSkipped, Outcome, Policy, Reply, Request, Step, Style
from rl4vlm.envs.registration import make_env
from rl4vlm.interaction.episodes import EpisodePlay, play_episodes
from rl4vlm.interaction.play import Slot, advance
from rl4vlm.policies.scripted import RandomPolicy
from rl4vlm.tasks.registry import get_task
from tests.fakes import LAST_STEP, ClimbEnv, ClimbTask, FakePolicy, climb_slot

UP, WAIT, NOTHING = '{"action": "up"}', '{"action": "wait"}', "I do not know."


def whole(step: Step) -> Step:
    return step


def played(seeds: list[int], width: int, policy: Policy | None = None) -> list[tuple[Episode, list[Step]]]:
    policy = policy or RandomPolicy()
    return list(play_episodes(ClimbEnv, ClimbTask(), policy, Style.COT, ClimbTask.prompt, seeds, width, keep=whole))


def skipping_play(skipped: set[int], count: int = 9) -> EpisodePlay[str]:
    """Plays seeds 0 to `count`, two at a time, in environments that skip the games of some."""

    class Skipping(ClimbEnv):
        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
            if seed in skipped:
                raise GameSkipped("it does not start")
            return super().reset(seed=seed)

    return EpisodePlay(
        Skipping, ClimbTask(), Style.COT, ClimbTask.prompt, range(count), 2, keep=lambda step: step.action
    )


class TestAdvance:
    def test_asks_all_slots_in_one_batch_and_in_order(self) -> None:
        slots = [climb_slot(seed) for seed in range(5)]
        requests = [slot.request for slot in slots]
        policy = FakePolicy(UP)
        steps = advance(slots, policy)
        assert policy.batches == [requests]
        assert [step.request for step in steps] == requests

    def test_a_step_says_what_was_asked_answered_and_earned(self) -> None:
        slot = climb_slot()
        request = slot.request
        (step,) = advance([slot], FakePolicy(WAIT))
        assert step.request is request
        assert (step.reply, step.action, step.fallback, step.reward) == (Reply(WAIT), "wait", False, 0.0)
        assert type(step.reward) is float
        assert (step.terminated, step.truncated, step.episode, step.final_request) == (False, False, None, None)
        assert step.parsed.outcome is Outcome.OK
        assert set(step.info) == {"bonus"}

    @pytest.mark.parametrize("reward", [float("nan"), float("inf"), None, "1", [1.0, 2.0]])
    def test_a_reward_that_is_no_finite_number_is_an_error(
        self, reward: object, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Such a reward made an evaluation end with 0 %, and PPO blame its learning rate."""
        monkeypatch.setattr(ClimbEnv, "step", lambda self, action: (self._image(), reward, False, False, {}))
        said = re.escape(f"task 'Climb' gave the reward {reward!r}, which is no finite number")
        with pytest.raises(ValueError, match=said):
            advance([climb_slot()], FakePolicy(UP))

    def test_an_episode_in_a_group_that_the_task_does_not_name_is_an_error(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Such an episode was won or lost in no group's rate."""
        monkeypatch.setattr(ClimbTask, "groups", ("low", "high"))
        monkeypatch.setattr(ClimbTask, "group", lambda self, info: "middle")
        monkeypatch.setattr(ClimbEnv, "step", lambda self, action: (self._image(), 1.0, True, False, {}))
        with pytest.raises(ValueError, match="task 'Climb' put an episode in group 'middle'; its groups: low, high"):
            advance([climb_slot()], FakePolicy(UP))

    def test_the_next_request_shows_the_new_state(self) -> None:
        slot = climb_slot()
        slot.env.floor = 0
        advance([slot], FakePolicy(UP))
        assert "You stand on floor 1." in slot.request.prompt
        assert slot.request.view.actions == ("up", "wait", "go down")
        assert '"go down"' in slot.request.prompt
        assert (slot.request.image == 1).all()

    def test_the_wrong_number_of_replies_is_an_error(self) -> None:
        class Mute:
            def act(self, requests: Sequence[Request]) -> list[Reply]:
                return []

        with pytest.raises(ValueError, match="Mute gave 0 replies to 2"):
            advance([climb_slot(), climb_slot()], Mute())


class SplitClimbEnv(ClimbEnv):
    """A `ClimbEnv` that records which half of a step was called, in a list that several environments share."""

    def __init__(self, halves: list[tuple[str, int]], number: int) -> None:
        super().__init__()
        self.halves, self.number = halves, number

    def step_async(self, action: int) -> None:
        self.halves.append(("begin", self.number))
        self.action = action

    def step_wait(self) -> tuple[np.ndarray, float, bool, bool, dict[str, object]]:
        self.halves.append(("end", self.number))
        return super().step(self.action)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, object]]:
        raise AssertionError("a SplitStepEnv must be stepped with step_async and step_wait")


class TestSplitSteps:
    def slots(self, envs: list[ClimbEnv]) -> list[Slot]:
        return [Slot(env, ClimbTask(), Style.COT, ClimbTask.prompt, seed) for seed, env in enumerate(envs)]

    def test_all_steps_begin_before_the_first_is_waited_for(self) -> None:
        halves: list[tuple[str, int]] = []
        advance(self.slots([SplitClimbEnv(halves, number) for number in range(3)]), FakePolicy(UP))
        assert halves == [(half, number) for half in ("begin", "end") for number in range(3)]

    def test_nothing_but_the_order_differs(self) -> None:
        whole = self.slots([ClimbEnv() for _ in range(3)])
        split = self.slots([SplitClimbEnv([], number) for number in range(3)])
        for turn in range(40):
            policy = FakePolicy(NOTHING if turn % 3 else UP)
            for one, other in zip(advance(whole, policy), advance(split, policy), strict=True):
                assert (one.action, one.reward, one.done, one.info) == (
                    other.action,
                    other.reward,
                    other.done,
                    other.info,
                )
                assert one.episode == other.episode

    def test_a_step_is_received_once(self) -> None:
        slot = climb_slot()
        slot.send(Reply(UP))
        slot.receive()
        with pytest.raises(ValueError, match="no reply was sent"):
            slot.receive()


class TestFallback:
    """The public code never counted random fallbacks (defect 11)."""

    def test_a_reply_without_action_draws_one_is_counted_and_costs(self) -> None:
        slot = climb_slot()
        steps = [step for _ in range(60) for step in advance([slot], FakePolicy(NOTHING))]
        assert all(step.fallback and step.parsed.action is None for step in steps)
        assert all(step.action in step.request.view.actions for step in steps)
        assert {(step.terminated, step.reward) for step in steps} == {(False, -0.5), (True, 0.5)}
        episodes = [step.episode for step in steps if step.episode]
        assert all(episode.fallbacks == episode.length for episode in episodes)
        ended = max(k for k, step in enumerate(steps) if step.episode)
        assert sum(episode.total_reward for episode in episodes) == sum(step.reward for step in steps[: ended + 1])

    def test_an_action_that_was_found_costs_nothing(self) -> None:
        assert advance([climb_slot()], FakePolicy(WAIT))[0].reward == 0.0

    def test_the_draw_is_uniform_over_the_legal_actions(self) -> None:
        slot = climb_slot()
        steps = [step for _ in range(3000) for step in advance([slot], FakePolicy(NOTHING))]
        drawn = [step.action for step in steps if len(step.request.view.actions) == 3]
        counts = np.array([drawn.count(word) for word in ("up", "wait", "go down")])
        expected = len(drawn) / 3
        assert ((counts - expected) ** 2 / expected).sum() < 13.8  # chi-square, 2 degrees of freedom, p = 0.001

    def test_the_draw_comes_from_the_environments_own_stream_and_not_from_the_policys(self) -> None:
        one, other = climb_slot(3), climb_slot(3)
        other.rng.random(100)
        np.random.seed(0)  # the global stream must not matter
        first = [step.action for _ in range(30) for step in advance([one], FakePolicy(NOTHING))]
        np.random.seed(1)
        assert [step.action for _ in range(30) for step in advance([other], FakePolicy(NOTHING))] == first


class TestEpisodeEnd:
    def test_the_prompt_after_a_reset_shows_the_new_episode(self) -> None:
        """The public code showed the previous episode's formula (defect 3)."""
        slot = climb_slot()
        slot.env.floor = 1
        (step,) = advance([slot], FakePolicy(UP))
        assert step.terminated
        assert f"You stand on floor {slot.env.floor}." in slot.request.prompt
        assert (slot.request.image == slot.env.floor).all()
        assert slot.env.floor < 2

    def test_the_same_in_a_game_with_a_formula(self) -> None:
        task = get_task("EZPoints")
        slot = Slot(make_env("EZPoints"), task, Style.COT, task.prompt, 1)
        fresh = slot.request
        first = fresh.view.fields
        for word in ("+", "*", "="):
            (step,) = advance([slot], FakePolicy(f'{{"action": "{word}"}}'))
        assert step.terminated
        assert step.request.view.fields != first
        assert slot.request.view.fields == first

    def test_an_episode_is_counted_from_its_own_start(self) -> None:
        slot = climb_slot()
        for _ in range(3):
            slot.env.floor = 1
            assert advance([slot], FakePolicy(WAIT))[0].episode is None
            (step,) = advance([slot], FakePolicy(UP))
            assert step.episode is not None
            counted = dataclasses.replace(step.episode, seed=None)
            assert counted == Episode(None, total_reward=1.0, length=2, success=True, fallbacks=0)

    def test_a_cut_off_episode_keeps_what_it_showed_last(self) -> None:
        slot = climb_slot()
        slot.env.floor = 1
        steps = [advance([slot], FakePolicy(WAIT))[0] for _ in range(LAST_STEP)]
        last = steps[-1]
        assert (last.truncated, last.terminated, last.done) == (True, False, True)
        assert last.final_request is not None
        assert last.final_request is not slot.request
        assert "floor 1." in last.final_request.prompt
        assert last.episode is not None
        assert not last.episode.success

    def test_an_episode_that_ended_by_itself_has_nothing_to_go_on_from(self) -> None:
        slot = climb_slot()
        slot.env.floor = 1
        assert advance([slot], FakePolicy(UP))[0].final_request is None


class TestEndlessPlay:
    def test_is_seeded_once_and_then_goes_on_with_its_own_stream(self) -> None:
        slot = climb_slot(7)
        for _ in range(20):
            advance([slot], FakePolicy(UP))
        first, *later = slot.env.resets
        assert first is not None
        assert first >= TRAINING_SEEDS_FROM, "held-out evaluation uses smaller seeds"
        assert later
        assert set(later) == {None}

    def test_slots_of_different_seeds_go_different_ways_and_of_the_same_the_same(self) -> None:
        def moves(seed: int) -> list[tuple[str, float]]:
            slot = climb_slot(seed)
            return [(s.action, s.info["bonus"]) for _ in range(20) for s in advance([slot], RandomPolicy())]

        assert moves(1) == moves(1)
        assert moves(1) != moves(2)


class TestPlayEpisodes:
    def test_one_a_seed_in_the_order_of_the_seeds(self) -> None:
        seeds = [5, 3, 8, 1, 9, 2, 4]
        result = played(seeds, 3)
        assert [episode.seed for episode, _ in result] == seeds
        for episode, steps in result:
            assert episode.length == len(steps)
            assert steps[-1].episode is episode
            assert [step.done for step in steps] == [False] * (len(steps) - 1) + [True]

    def test_width_and_order_change_nothing(self) -> None:
        def essence(result: list[tuple[Episode, list[Step]]]) -> dict[int | None, tuple[Episode, list[Any]]]:
            return {e.seed: (e, [(s.action, s.info["bonus"], s.request.prompt) for s in steps]) for e, steps in result}

        seeds = list(range(20))
        alone = essence(played(seeds, 1))
        assert alone == essence(played(seeds, 7)) == essence(played(seeds[::-1], 64))
        assert len({repr(steps) for _, steps in alone.values()}) > 10

    def test_a_batch_is_as_wide_as_there_is_work(self) -> None:
        policy = FakePolicy(UP)
        played(list(range(10)), 4, policy)
        sizes = [len(batch) for batch in policy.batches]
        assert max(sizes) == sizes[0] == 4
        assert sum(sizes) == sum(len(steps) for _, steps in played(list(range(10)), 4, FakePolicy(UP)))

    def test_comes_as_it_is_played_and_closes_its_environments_even_when_stopped(self) -> None:
        made: list[ClimbEnv] = []

        def make() -> ClimbEnv:
            made.append(ClimbEnv())
            return made[-1]

        episodes = play_episodes(
            make, ClimbTask(), FakePolicy(UP), Style.COT, ClimbTask.prompt, range(100), 2, keep=whole
        )
        next(episodes)
        assert sum(len(env.resets) for env in made) < 10
        cast(Generator[Any], episodes).close()
        assert [env.closed for env in made] == [True, True]

    def test_once_told_not_to_go_on_it_ends_what_runs_and_begins_no_more(self) -> None:
        finished: list[Episode] = []

        def should_continue(episode: Episode) -> bool:
            finished.append(episode)
            return len(finished) < 5

        everything = played(list(range(30)), 4, FakePolicy(UP))
        parts, policy = ClimbTask.prompt, FakePolicy(UP)
        episodes = list(
            play_episodes(ClimbEnv, ClimbTask(), policy, Style.COT, parts, range(30), 4, should_continue, keep=whole)
        )
        # Four begin at once, and one more after each of the first four that end.
        assert [episode for episode, _ in episodes] == [episode for episode, _ in everything[:8]]

    @pytest.mark.parametrize("turns", [1, 4, 9])
    def test_continued_from_its_state_it_asks_in_the_same_batches(self, turns: int) -> None:
        def play() -> EpisodePlay[str]:
            return EpisodePlay(
                ClimbEnv, ClimbTask(), Style.COT, ClimbTask.prompt, range(7), 3, lambda step: step.action
            )

        def act(request: Request) -> str:
            return (UP, WAIT, NOTHING)[request.rng.integers(3)]

        whole, before, after = FakePolicy(act), FakePolicy(act), FakePolicy(act)
        expected = [episode for finished in play().turns(whole) for episode in finished]
        stopped, continued = play(), play()
        found = [episode for finished in islice(stopped.turns(before), turns) for episode in finished]
        continued.load_state(json.loads(json.dumps(stopped.state())))
        found += [episode for finished in continued.turns(after) for episode in finished]
        assert found == expected
        asked = [[request.prompt for request in batch] for batch in (*before.batches, *after.batches)]
        assert asked == [[request.prompt for request in batch] for batch in whole.batches]

    def test_an_episode_that_cannot_be_repeated_begins_again(self, capsys: pytest.CaptureFixture[str]) -> None:
        class Changing(ClimbEnv):
            made = 0

            def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
                Changing.made += 1
                return super().reset(seed=None if seed is None else seed + Changing.made)

        def play() -> EpisodePlay[str]:
            parts = ClimbTask.prompt
            return EpisodePlay(Changing, ClimbTask(), Style.COT, parts, [0], 1, lambda step: step.action)

        stopped, continued = play(), play()
        next(iter(stopped.turns(FakePolicy(WAIT))))
        continued.load_state(stopped.state())
        ((episode, actions),) = [one for finished in continued.turns(FakePolicy(UP)) for one in finished]
        assert actions == ["up"] * episode.length
        assert "note: the episode of seed 0 begins again: Changing did not come back" in capsys.readouterr().err

    @pytest.mark.parametrize("turns", range(4))
    def test_a_seed_whose_game_is_skipped_has_no_episode(self, turns: int) -> None:
        before, after, expected = FakePolicy(UP), FakePolicy(UP), FakePolicy(UP)
        left = [(episode, [step.action for step in steps]) for episode, steps in played([1, 2, 5, 6, 7], 2, expected)]
        stopped, continued = skipping_play({0, 3, 4, 8}), skipping_play({0, 3, 4, 8})
        found = [one for finished in islice(stopped.turns(before), turns) for one in finished]
        assert not stopped.complete
        if turns:
            continued.load_state(json.loads(json.dumps(stopped.state())))
        found += [one for finished in continued.turns(after) for one in finished]
        assert found == left
        assert continued.complete
        asked = [[request.prompt for request in batch] for batch in (*before.batches, *after.batches)]
        assert asked == [[request.prompt for request in batch] for batch in expected.batches]

    def test_where_every_game_is_skipped_there_is_no_episode(self) -> None:
        play = skipping_play(set(range(9)))
        assert [*play.turns(FakePolicy(UP))] == []
        assert play.complete

    def test_an_episode_whose_game_is_skipped_when_play_continues_is_left_out(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A later one that is finished already waits for it, and must not be lost."""

        def act(request: Request) -> str:
            return WAIT if cast(ClimbEnv, request.env).resets[-1] == 0 else UP

        expected = skipping_play({0})
        whole = [one for finished in expected.turns(FakePolicy(act)) for one in finished]
        # All but the first are finished by then, and it holds them back.
        stopped, continued = skipping_play(set(), count=3), skipping_play({0}, count=3)
        assert [*islice(stopped.turns(FakePolicy(act)), 4)] == [[]] * 4
        continued.load_state(json.loads(json.dumps(stopped.state())))
        found = [one for finished in continued.turns(FakePolicy(act)) for one in finished]
        assert found == whole[:2]
        assert continued.complete
        assert "note: the episode of seed 0 is left out: it does not start" in capsys.readouterr().err

    @pytest.mark.parametrize(("seeds", "width", "what"), [([1, 1], 2, "repeated"), ([1], 0, "num_envs 0")])
    def test_refuses_what_makes_no_sense(self, seeds: list[int], width: int, what: str) -> None:
        with pytest.raises(ValueError, match=what):
            played(seeds, width)

    def test_a_stopped_slot_cannot_go_on(self) -> None:
        slot = climb_slot(1, endless=False)
        slot.env.floor = 1
        advance([slot], FakePolicy(UP))
        assert slot.stopped
        with pytest.raises(ValueError, match="episode is over"):
            advance([slot], FakePolicy(UP))
