"""The CNN+RL baseline as a policy: same parser and play loop, recognised by the files of its checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rl4vlm.config.stages.cnn import CNNSizes
from rl4vlm.core.types import Outcome, Style
from rl4vlm.interaction.play import advance
from rl4vlm.models.cnn import CNNActorCritic
from rl4vlm.policies.cnn import CNNPolicy
from rl4vlm.policies.registry import checkpoint_of, make_policy
from tests.fakes import climb_slot

SIZES = CNNSizes(image_size=40, channels=(4, 4, 4), width=16, text_embedding=4, text_width=8)


@pytest.fixture
def policy() -> CNNPolicy:
    torch.manual_seed(0)
    return CNNPolicy(CNNActorCritic(("up", "wait", "go down"), reads_text=True, sizes=SIZES, temperature=1.0))


def played(policy: CNNPolicy, style: Style = Style.COT) -> list:
    slots = [climb_slot(seed, style) for seed in range(4)]
    return [step for _ in range(8) for step in advance(slots, policy)]


@pytest.mark.parametrize("style", list(Style))
def test_the_parser_reads_the_action_that_was_sampled(policy: CNNPolicy, style: Style) -> None:
    steps, actions = played(policy, style), policy.model.actions
    assert actions is not None
    assert {step.parsed.outcome for step in steps} == {Outcome.OK}
    assert [step.action for step in steps] == [actions[step.reply.replay_item.action] for step in steps]
    assert {step.action for step in steps} == {"up", "wait", "go down"}
    assert steps[0].reply.text == f'{{"action": "{steps[0].action}"}}'


def test_the_trace_holds_what_was_seen_and_how_likely_the_action_was(policy: CNNPolicy) -> None:
    for step in played(policy):
        item = step.reply.replay_item
        with torch.no_grad():
            log_probs, values = policy.model([item.observation])
        assert item.log_prob == pytest.approx(float(log_probs[0, item.action]), abs=1e-5)
        assert item.value == pytest.approx(float(values[0]), abs=1e-5)
        assert step.reply.numbers == {"logprob_action": item.log_prob, "value": item.value}
        assert bytes(item.observation.text.tolist()).decode() == f"floor: {step.request.view.fields['floor']}"


def test_rescoring_gives_what_was_stored(policy: CNNPolicy) -> None:
    steps = played(policy)
    items = [step.reply.replay_item for step in steps]
    now = policy.rescore(policy.model, items)
    assert now.old_logprob_action.tolist() == [item.log_prob for item in items]
    torch.testing.assert_close(now.logprob_action.double(), now.old_logprob_action, atol=1e-5, rtol=1e-4)
    for thoughts in (now.logprob_thoughts, now.old_logprob_thoughts):
        assert thoughts.tolist() == [0.0] * len(items)
    torch.testing.assert_close(now.value, now.old_value, atol=1e-5, rtol=1e-4)
    assert policy.values([step.request for step in steps]) == pytest.approx(now.old_value.tolist(), abs=1e-5)
    # On the ground floor two of the three actions are legal, so the entropy is at most ln 2.
    ground = torch.tensor([len(step.request.view.actions) == 2 for step in steps])
    entropy = now.entropy.detach()
    assert float(entropy[ground].max()) < 0.6932 < float(entropy[~ground].max())
    assert now.logprob_action.requires_grad


def test_a_reply_does_not_depend_on_the_batch(policy: CNNPolicy) -> None:
    together = [step.action for step in played(policy)]
    alone = []
    for seed in range(4):
        slot = climb_slot(seed)
        alone.append([advance([slot], policy)[0].action for _ in range(8)])
    assert together == [action for row in zip(*alone, strict=True) for action in row]


def test_a_checkpoint_folder_is_known_by_its_files_and_loads(policy: CNNPolicy, tmp_path: Path) -> None:
    assert checkpoint_of(str(tmp_path)) == ("vlm", str(tmp_path))
    policy.model.save(tmp_path)
    assert checkpoint_of(str(tmp_path)) == ("cnn", str(tmp_path))
    again = make_policy(
        str(tmp_path), Style.COT, temperature=1.0, max_new_tokens=8, dtype="float32", device="cpu", api={}
    )
    assert isinstance(again, CNNPolicy)
    assert [step.reply.text for step in played(again)] == [step.reply.text for step in played(policy)]


def test_a_game_with_other_actions_is_refused(tmp_path: Path) -> None:
    other = CNNPolicy(CNNActorCritic(("stand", "hit"), reads_text=False, sizes=SIZES, temperature=1.0))
    with pytest.raises(ValueError, match="stand, hit, not 'up'"):
        other.act([climb_slot().request])
