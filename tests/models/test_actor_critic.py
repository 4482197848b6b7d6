"""Generation and scoring use the same policy, whatever the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rl4vlm.models import actor_critic as module
from rl4vlm.models.actor_critic import ActorCritic
from rl4vlm.models.encode import Encoded, collate
from rl4vlm.models.loading import load_backbone
from rl4vlm.models.sampling import sample, uniforms
from rl4vlm.models.value_head import ValueHead

PROMPTS = ["Read.", "You see a number line. Answer in JSON:", "Play Blackjack. The dealer shows 9."]


@pytest.fixture
def prompts(actor_critic):
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, size=(3, 300, 300, 3), dtype=np.uint8)
    return [actor_critic.encoder.prompt(image, text) for image, text in zip(images, PROMPTS, strict=True)]


def streams(count):
    return [np.random.default_rng(seed) for seed in range(count)]


def test_ids_that_are_no_token_are_never_sampled(tiny_checkpoint):
    backbone = load_backbone(tiny_checkpoint)
    tokens = len(backbone.processor.tokenizer)
    backbone.model.resize_token_embeddings(tokens + 8)  # as models do whose vocabulary is padded
    with torch.no_grad():
        backbone.model.get_output_embeddings().weight[tokens:] *= 1000
    model = ActorCritic(backbone, ValueHead(32, (8,)), temperature=1.0, max_new_tokens=8)
    prompt = model.encoder.prompt(np.zeros((60, 60, 3), np.uint8), "number")
    (reply,) = model.generate([prompt], [np.random.default_rng(0)])
    assert int(reply.ids.max()) < tokens
    assert set(range(tokens, tokens + 8)) <= set(model.model.generation_config.suppress_tokens)


def test_generated_log_probs_equal_rescored_ones(actor_critic: ActorCritic, prompts: list[Encoded]) -> None:
    replies = actor_critic.generate(prompts, streams(3))
    scores = actor_critic.score(prompts, [reply.ids for reply in replies])
    for row, reply in enumerate(replies):
        assert len(reply.ids) > 1
        torch.testing.assert_close(scores.logprobs[row, : len(reply.ids)], reply.logprobs, atol=1e-4, rtol=0)
        assert scores.values[row].item() == pytest.approx(reply.value, abs=1e-4)


def test_replies_do_not_depend_on_the_batch(actor_critic: ActorCritic, prompts: list[Encoded]) -> None:
    together = actor_critic.generate(prompts, streams(3))
    for row in (2, 0, 1):
        alone = actor_critic.generate([prompts[row]], [streams(3)[row]])[0]
        assert alone.ids.tolist() == together[row].ids.tolist()
        assert alone.value == pytest.approx(together[row].value, abs=1e-4)


@pytest.mark.parametrize("size", [1, 2])
def test_replies_do_not_depend_on_prefilling_in_parts(
    actor_critic: ActorCritic, prompts: list[Encoded], monkeypatch: pytest.MonkeyPatch, size
) -> None:
    whole = actor_critic.generate(prompts, streams(3))
    read = []
    handle = actor_critic.model.model.vision_tower.register_forward_pre_hook(
        lambda _, args, named: read.append(len((args or (named["pixel_values"],))[0])), with_kwargs=True
    )
    monkeypatch.setattr(module, "PROMPT_TOKENS", size * max(len(prompt.input_ids) for prompt in prompts))
    parts = actor_critic.generate(prompts, streams(3))
    handle.remove()
    assert read == ([1, 1, 1] if size == 1 else [2, 1])
    for one, other in zip(whole, parts, strict=True):
        assert one.ids.tolist() == other.ids.tolist()
        torch.testing.assert_close(one.logprobs, other.logprobs, atol=1e-4, rtol=0)
        assert one.value == pytest.approx(other.value, abs=1e-4)


def test_scores_do_not_depend_on_padding_or_order(actor_critic: ActorCritic, prompts: list[Encoded]) -> None:
    replies = [reply.ids for reply in actor_critic.generate(prompts, streams(3))]
    replies[0] = replies[0][:3]
    together = actor_critic.score(prompts, replies)
    order = [2, 0, 1]
    shuffled = actor_critic.score([prompts[i] for i in order], [replies[i] for i in order])
    for place, row in enumerate(order):
        alone = actor_critic.score([prompts[row]], [replies[row]])
        n = len(replies[row])
        for other, index in ((alone, 0), (shuffled, place)):
            torch.testing.assert_close(other.logprobs[index, :n], together.logprobs[row, :n], atol=1e-4, rtol=0)
            torch.testing.assert_close(other.entropy[index, :n], together.entropy[row, :n], atol=1e-4, rtol=0)
            torch.testing.assert_close(other.values[index], together.values[row], atol=1e-4, rtol=0)
        assert not together.logprobs[row, n:].any()


def test_special_tokens_are_never_sampled(actor_critic: ActorCritic, prompts: list[Encoded]) -> None:
    suppressed = set(actor_critic.suppressed.tolist())
    assert actor_critic.encoder.eos_id not in suppressed
    with torch.no_grad():
        embeddings = actor_critic.model.get_output_embeddings().weight
        embeddings[actor_critic.suppressed] = 50 * embeddings.mean(0)  # would win without suppression
    for reply in actor_critic.generate(prompts, streams(3)):
        assert not suppressed & set(reply.ids.tolist())


def test_distribution_of_samples_is_the_softmax(actor_critic: ActorCritic, prompts: list[Encoded]) -> None:
    """The first tokens of many replies are as frequent as the policy says: sampling is exact."""
    actor_critic.max_new_tokens = 1
    count = 2000
    rng = [np.random.default_rng([7, i]) for i in range(count)]
    firsts = torch.tensor([reply.ids[0] for reply in actor_critic.generate([prompts[0]] * count, rng)])
    allowed = torch.tensor([i for i in range(len(actor_critic.encoder.tokenizer)) if i not in actor_critic.suppressed])
    scores = actor_critic.score([prompts[0]] * len(allowed), [token[None] for token in allowed])
    probabilities = scores.logprobs[:, 0].exp().detach()
    assert probabilities.sum().item() == pytest.approx(1.0, abs=1e-3)
    observed = torch.bincount(firsts, minlength=len(actor_critic.encoder.tokenizer))[allowed] / count
    top = probabilities.topk(5)
    error = (observed[top.indices] - top.values).abs()
    assert (error < 4 * (top.values * (1 - top.values) / count).sqrt() + 1e-3).all()


def test_a_token_is_chosen_by_its_interval_of_the_cumulative_probability() -> None:
    logprobs = torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.25, 0.0]]).log()
    numbers = [0.0, 0.2499, 0.25, 0.7499, 0.75, 1 - 2**-53]
    chosen = [int(sample(logprobs, torch.tensor([[number]], dtype=torch.float64))) for number in numbers]
    assert chosen == [1, 1, 3, 3, 4, 4]


@pytest.mark.parametrize("total", [0.999999, 1.0, 1.0000001])
def test_a_token_of_probability_zero_is_not_sampled_if_the_sum_is_not_exactly_1(total) -> None:
    probabilities = torch.tensor([[0.0, total, 0.0]])
    for number in (0.0, 0.5, 1 - 2**-53):
        assert int(sample(probabilities.log(), torch.tensor([[number]], dtype=torch.float64))) == 1


def test_every_reply_draws_equally_many_numbers(actor_critic: ActorCritic, prompts: list[Encoded]) -> None:
    """Each row draws only from its own generator, and greedy decoding draws nothing."""
    rngs, alone = streams(3), streams(3)
    actor_critic.generate(prompts, rngs)
    drawn = uniforms(alone, actor_critic.max_new_tokens)
    assert len(torch.unique(drawn)) == drawn.numel()
    assert [rng.random() for rng in rngs] == [rng.random() for rng in alone]
    actor_critic.temperature = 0
    actor_critic.generate(prompts, rngs)
    assert [rng.random() for rng in rngs] == [rng.random() for rng in alone]


def test_save_then_load_gives_the_same_logits(
    actor_critic: ActorCritic, prompts: list[Encoded], tmp_path: Path
) -> None:
    reply = [actor_critic.encoder.reply("stand")] * 3
    before = actor_critic.score(prompts, reply)
    actor_critic.save(tmp_path)
    again = ActorCritic.load(tmp_path, temperature=0.7, max_new_tokens=24)
    encoded = [again.encoder.prompt(np.zeros((300, 300, 3), np.uint8), "Read.")]
    assert torch.equal(encoded[0].input_ids, prompts[0].input_ids)
    after = again.score(prompts, reply)
    assert torch.equal(before.logprobs, after.logprobs)
    assert torch.equal(before.values, after.values)


def test_gradients_reach_every_part(actor_critic: ActorCritic, prompts: list[Encoded]) -> None:
    scores = actor_critic.score(prompts, [actor_critic.encoder.reply("stand")] * 3)
    (scores.logprobs.sum() + scores.values.sum()).backward()
    parts = ["vision_tower", "multi_modal_projector", "language_model", "value_head"]
    for part in parts:
        norms = [p.grad.norm().item() for n, p in actor_critic.named_parameters() if part in n and p.grad is not None]
        assert norms, part
        assert sum(norms) > 0, part


def test_token_at_finds_the_key_by_text(actor_critic: ActorCritic) -> None:
    encoder = actor_critic.encoder
    text = 'a thought é ≥ 3 "action": "stand"'
    ids = encoder.reply(text).tolist()
    start = encoder.token_at(ids, text.index('"action":'))
    assert encoder.decode(ids[start:]) == '"action": "stand"'
    assert encoder.token_at(ids, len(text)) == len(ids)


def test_collate_lays_prompts_left_and_replies_right(prompts: list[Encoded]) -> None:
    batch = collate(prompts, [torch.tensor([9]), torch.tensor([8, 7]), torch.tensor([6, 5, 4])], 0, torch.device("cpu"))
    longest = max(len(prompt.input_ids) for prompt in prompts)
    assert batch.prompt_length == longest
    assert batch.reply_ids.tolist() == [[9, 0, 0], [8, 7, 0], [6, 5, 4]]
    assert batch.reply_mask.sum(-1).tolist() == [1, 2, 3]
    for row, prompt in enumerate(prompts):
        assert torch.equal(batch.inputs["input_ids"][row, longest - len(prompt.input_ids) : longest], prompt.input_ids)
        positions = batch.inputs["position_ids"][row][batch.inputs["attention_mask"][row].bool()]
        assert positions.tolist() == list(range(len(prompt.input_ids) + row + 1))
