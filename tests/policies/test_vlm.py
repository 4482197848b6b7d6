"""A vision-language model as a policy: what it stores of a step, and how it scores the step again."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.utils import _recursive_to

from rl4vlm.core.types import Parsed
from rl4vlm.interaction import parse, play
from rl4vlm.interaction.play import advance
from rl4vlm.models.actor_critic import ActorCritic
from rl4vlm.policies import vlm
from rl4vlm.policies.vlm import VLMPolicy, split_log_probs
from tests.fakes import FakePolicy, climb_slot

LOGPROBS = torch.tensor([[-1.0, -2.0, -3.0, -4.0], [-0.5, -0.25, 0.0, 0.0]])
MASK = torch.tensor([[True, True, True, True], [True, True, False, False]])
START = torch.tensor([2, 1])


def test_split_at_the_action_key() -> None:
    thoughts, action = split_log_probs(LOGPROBS, MASK, START)
    assert thoughts.tolist() == [-3.0, -0.5]
    assert action.tolist() == [-7.0, -0.25]


def test_reply_without_action_key_is_all_thought() -> None:
    thoughts, action = split_log_probs(LOGPROBS, MASK, torch.tensor([4, 4]))
    assert thoughts.tolist() == [-10.0, -0.75]
    assert action.tolist() == [0.0, 0.0]


def test_padding_counts_for_nothing() -> None:
    wider = torch.nn.functional.pad(LOGPROBS, (0, 3), value=-99.0)
    mask = torch.nn.functional.pad(MASK, (0, 3), value=False)
    for padded, plain in zip(split_log_probs(wider, mask, START), split_log_probs(LOGPROBS, MASK, START), strict=True):
        assert torch.equal(padded, plain)


def test_rescoring_gives_what_was_stored(actor_critic: ActorCritic) -> None:
    policy = VLMPolicy(actor_critic)
    slots = [climb_slot(seed) for seed in range(3)]
    asked = [slot.request for slot in slots]
    items = [step.reply.replay_item for step in advance(slots, policy)]
    now = policy.rescore(policy.model, items)
    # As Python floats, without rounding.
    assert now.old_logprob_thoughts.tolist() == [item.logprob_thoughts for item in items]
    assert now.old_logprob_action.tolist() == [item.logprob_action for item in items]
    for new, old in (
        (now.logprob_thoughts, now.old_logprob_thoughts),
        (now.logprob_action, now.old_logprob_action),
    ):
        torch.testing.assert_close(new.double(), old, atol=1e-4, rtol=1e-4)
        assert new.requires_grad
    torch.testing.assert_close(now.value, now.old_value, atol=1e-5, rtol=1e-4)
    assert policy.values(asked) == pytest.approx(now.old_value.tolist(), abs=1e-5)
    assert now.value.requires_grad
    assert (now.entropy > 0).all()


class SendsInputs(nn.Module):
    """Sends tensors among its inputs to another device, as DDP and FSDP do on a GPU."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: object) -> object:
        return self.module(*_recursive_to(inputs, torch.device("meta"), False)[0])


def test_a_data_parallel_wrapper_sends_no_reply_to_the_gpu(actor_critic: ActorCritic) -> None:
    """Batches are put together on the CPU: a reply would have to come back first."""
    policy = VLMPolicy(actor_critic)
    items = [step.reply.replay_item for step in advance([climb_slot(seed) for seed in range(2)], policy)]
    with torch.no_grad():
        found, expected = policy.rescore(SendsInputs(actor_critic), items), policy.rescore(actor_critic, items)
    assert torch.equal(found.logprob_action, expected.logprob_action)


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that `parse_reply` was called with, by whichever module."""
    texts: list[str] = []
    original = parse.parse_reply

    def counted(text: str, *views: Any) -> Parsed:
        texts.append(text)
        return original(text, *views)

    for module in (vlm, play):
        monkeypatch.setattr(module, "parse_reply", counted)
    return texts


def test_a_sampled_reply_is_parsed_once_per_step(actor_critic: ActorCritic, parses: list[str]) -> None:
    slots = [climb_slot(seed) for seed in range(3)]
    steps = [step for _ in range(2) for step in advance(slots, VLMPolicy(actor_critic))]
    assert parses == [step.reply.text for step in steps]
    for step in steps:
        assert step.parsed == parse.parse_reply(step.reply.text, step.request.view.actions)


def test_a_reply_that_no_policy_parsed_is_parsed_by_the_play_loop(parses: list[str]) -> None:
    (step,) = advance([climb_slot()], FakePolicy('{"action": "wait"}'))
    assert parses == [step.reply.text]
    assert (step.reply.parsed, step.parsed.action) == (None, "wait")


def test_a_checkpoint_loads(tiny_checkpoint: Path) -> None:
    policy = VLMPolicy.load(tiny_checkpoint, temperature=0.7, max_new_tokens=4, device="cpu")
    assert len(policy.act([climb_slot().request])[0].replay_item.ids) <= 4


def test_a_checkpoint_without_a_trained_critic_gives_no_value(tiny_checkpoint: Path, tmp_path: Path) -> None:
    copytree(tiny_checkpoint, tmp_path / "played")
    first, again = (VLMPolicy.load(tmp_path / "played", temperature=0.7, max_new_tokens=4, device="cpu") for _ in "12")
    numbers = first.act([climb_slot().request])[0].numbers
    # Each load draws another value head, and nothing of that shows.
    assert numbers == again.act([climb_slot().request])[0].numbers
    assert "value" not in numbers
    first.save(tmp_path / "played")
    trained = VLMPolicy.load(tmp_path / "played", temperature=0.7, max_new_tokens=4, device="cpu")
    assert "value" in trained.act([climb_slot().request])[0].numbers
