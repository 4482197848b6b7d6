"""What must hold for any backbone, tested on a tiny random checkpoint of each family (docs/backbones.md)."""

from __future__ import annotations

import importlib.util
import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, GenerationConfig, ProcessorMixin

from rl4vlm.config.stages.backbone import LoraSettings
from rl4vlm.config.stages.ppo import PPOSettings
from rl4vlm.config.stages.sft import SFTSettings
from rl4vlm.config.stages.sft_data import SFTDataSettings
from rl4vlm.core.types import Style
from rl4vlm.models import actor_critic
from rl4vlm.models.actor_critic import ActorCritic
from rl4vlm.models.encode import Encoded, Encoder
from rl4vlm.models.loading import load_backbone, write_merged
from rl4vlm.models.lora import ensure_adapter, trainable
from rl4vlm.ppo.train import run as run_ppo
from rl4vlm.sft.data import run as make_data
from rl4vlm.sft.train import run as run_sft
from tests.models.families import FAMILIES

PROMPTS = ("Read.", "You see a number line. Answer in JSON:", "Play Blackjack. The dealer shows 9.")
SIZES = ((300, 300), (150, 300), (300, 300))
"""Images of different shapes, which become different numbers of tiles and tokens."""
PROJECT = "Llava (tiny)"
APART = {"Qwen2.5-VL", "Qwen3-VL", "Gemma3"}
"""Families whose positions or masks do not let replies share a prompt (docs/backbones.md)."""
NOT_COMPILED = {"Idefics3", "SmolVLM", "Gemma3"}
"""Families whose passes for single tokens cannot be compiled (docs/backbones.md)."""


@pytest.fixture(scope="module", params=[PROJECT, *FAMILIES])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def checkpoint(family: str, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if family == PROJECT:
        return tiny_checkpoint
    folder = tmp_path_factory.mktemp("family")
    FAMILIES[family].write(folder)
    return folder


@pytest.fixture(scope="module")
def parts(family: str) -> tuple[str, ...]:
    """Prefixes of the parameter names of vision tower, projector and language model."""
    return FAMILIES["LlavaNext" if family == PROJECT else family].parts


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demonstrations") / "NumberLine-cot"
    make_data(task="NumberLine", style=Style.COT, out=folder, settings=SFTDataSettings(samples=8))
    return folder


def load(checkpoint: Path, **options: Any) -> ActorCritic:
    torch.manual_seed(0)
    return ActorCritic.load(checkpoint, temperature=0.7, max_new_tokens=10, value_sizes=(16,), **options)


def encoded(model: ActorCritic) -> list[Encoded]:
    rng = np.random.default_rng(3)
    images = [rng.integers(0, 256, size=(*size, 3), dtype=np.uint8) for size in SIZES]
    return [model.encoder.prompt(image, text) for image, text in zip(images, PROMPTS, strict=True)]


def streams() -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in range(len(PROMPTS))]


def test_a_image_is_as_many_tokens_as_the_family_documents(family: str, checkpoint: Path) -> None:
    if family == PROJECT:
        pytest.skip("tests/base_model/test_tiny.py says it of the project's own")
    model = load(checkpoint)
    image_id = model.encoder.tokenizer.convert_tokens_to_ids(FAMILIES[family].image_token)
    ids = encoded(model)[0].input_ids
    assert (ids == image_id).sum() == FAMILIES[family].image_tokens
    begin = model.encoder.tokenizer.bos_token_id
    if begin is not None:
        assert (ids == begin).nonzero().flatten().tolist() == [0]


def test_generation_and_score_agree_and_padding_changes_nothing(checkpoint: Path) -> None:
    model = load(checkpoint)
    prompts = encoded(model)
    replies = model.generate(prompts, streams())
    together = model.score(prompts, [reply.ids for reply in replies])
    for row, reply in enumerate(replies):
        length = len(reply.ids)
        assert length > 1
        alone = model.score([prompts[row]], [reply.ids])
        again = model.generate([prompts[row]], [streams()[row]])[0]
        assert again.ids.tolist() == reply.ids.tolist()
        for other in (alone.logprobs[0], reply.logprobs):
            torch.testing.assert_close(together.logprobs[row, :length], other, atol=1e-5, rtol=0)
        torch.testing.assert_close(together.entropy[row, :length], alone.entropy[0], atol=1e-5, rtol=0)
        for value in (alone.values[0].item(), reply.value, model.values([prompts[row]])[0]):
            assert together.values[row].item() == pytest.approx(value, abs=1e-5)
    assert len({len(prompt.input_ids) for prompt in prompts}) > 1


def test_the_checkpoints_own_way_of_generating_changes_no_reply(checkpoint: Path, tmp_path: Path) -> None:
    """Qwen2.5-VL's has a repetition penalty. Replies are scored without it, so they are sampled without it."""
    plain = load(checkpoint)
    eos = plain.encoder.eos_id
    opinions = {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "min_new_tokens": 9, "bad_words_ids": [[eos]]}
    shutil.copytree(checkpoint, tmp_path / "opinionated")
    GenerationConfig(**opinions, do_sample=True, top_k=1).save_pretrained(tmp_path / "opinionated")
    model = load(tmp_path / "opinionated")
    prompts = encoded(model)
    replies = model.generate(prompts, streams())
    scores = model.score(prompts, [reply.ids for reply in replies])
    for row, (reply, expected) in enumerate(zip(replies, plain.generate(encoded(plain), streams()), strict=True)):
        assert reply.ids.tolist() == expected.ids.tolist()
        torch.testing.assert_close(scores.logprobs[row, : len(reply.ids)], reply.logprobs, atol=1e-5, rtol=0)
    (tmp_path / "saved").mkdir()
    model.save(tmp_path / "saved")
    saved = GenerationConfig.from_pretrained(tmp_path / "saved")
    assert (saved.eos_token_id, saved.top_k, saved.top_p, saved.do_sample) == (eos, 0, 1.0, True)
    assert (
        saved.suppress_tokens == model.encoder.suppressed_ids(model.model.get_output_embeddings().out_features).tolist()
    )
    assert [getattr(saved, name) for name in opinions] == [None] * 4


def test_prompts_read_in_parts_give_the_same_replies(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a family's prompts cannot be read in parts, they are read together, with the same replies."""
    model = load(checkpoint)
    whole = model.generate(encoded(model), streams())
    monkeypatch.setattr(actor_critic, "PROMPT_TOKENS", 1)
    for one, other in zip(whole, model.generate(encoded(model), streams()), strict=True):
        assert one.ids.tolist() == other.ids.tolist()
        torch.testing.assert_close(one.logprobs, other.logprobs, atol=1e-5, rtol=0)
        assert one.value == pytest.approx(other.value, abs=1e-5)


def test_a_static_cache_changes_no_reply(family: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With padding, equal prompts, a smaller batch than before, and prompts read in parts. Other families refuse it."""
    if family in NOT_COMPILED:
        with pytest.raises(ValueError, match=rf"kv_cache 'static' is not possible with {family}ForCond"):
            load(checkpoint, kv_cache="static")
        return
    dynamic, static = load(checkpoint), load(checkpoint, kv_cache="static")
    prompts = encoded(dynamic)
    for tokens, batch in ((4096, prompts), (4096, [prompts[1], *prompts[:2]]), (4096, prompts[2:]), (1, prompts)):
        monkeypatch.setattr(actor_critic, "PROMPT_TOKENS", tokens)
        replies = [model.generate(batch, streams()[: len(batch)]) for model in (dynamic, static)]
        for one, other in zip(*replies, strict=True):
            assert one.ids.tolist() == other.ids.tolist()
            torch.testing.assert_close(one.logprobs, other.logprobs, atol=1e-5, rtol=0)
            assert one.value == pytest.approx(other.value, abs=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_equal_prompts_pass_once_and_change_nothing(family: str, checkpoint: Path, checkpointing: bool) -> None:
    """Log-probabilities, entropies, values and gradients are those of each reply alone; so are sampled replies."""
    model = load(checkpoint, dtype="float64", gradient_checkpointing=checkpointing).double()
    one, other, _ = encoded(model)
    prompts = [one, other, replace(one), one, replace(other), one]
    rngs = [[np.random.default_rng(seed) for seed in range(6)] for _ in "12"]
    read: list[int] = []
    layer = next(m for name, m in model.model.named_modules() if name.endswith(("layers.0", "blocks.0")))
    layer.register_forward_pre_hook(lambda _module, inputs: read.append(inputs[0].numel()))
    texts = ["go up", "stay", "", "no: down, and up again", "up", "1"]
    replies = [model.encoder.reply(text) for text in texts]
    results, seen = [], []
    for share in (True, False):
        model.share_prompts = share
        read.clear()
        model.zero_grad()
        scores = model.score(prompts, replies)
        scored = sum(read)
        (scores.logprobs.sum() + scores.values.pow(2).sum() + scores.entropy.sum()).backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        read.clear()
        sampled = model.generate(prompts, rngs[share])
        seen.append((scored, sum(read)))
        results.append((scores, gradients, sampled))
    torch.testing.assert_close(vars(results[0][0]), vars(results[1][0]), atol=1e-10, rtol=1e-10)
    # Some norms compute in float32 whatever the weights.
    torch.testing.assert_close(results[0][1], results[1][1], atol=2e-6, rtol=1e-4)
    for shared, apart in zip(results[0][2], results[1][2], strict=True):
        assert shared.ids.tolist() == apart.ids.tolist()
        torch.testing.assert_close(shared.logprobs, apart.logprobs, atol=1e-6, rtol=0)
        assert shared.value == pytest.approx(apart.value, abs=1e-9)
    if family in APART:
        assert seen[0] == seen[1]
    else:
        (scored, played), (scored_apart, played_apart) = seen
        assert scored < 0.6 * scored_apart
        assert played < 0.34 * played_apart  # two distinct prompts of six


def test_prompts_that_were_sent_are_scored_the_same(checkpoint: Path) -> None:
    model, elsewhere = load(checkpoint), load(checkpoint)
    prompts, replies = encoded(model), [model.encoder.reply("go up")] * 3
    for prompt in prompts:
        pixels = {name: torch.cat([tensor] * 50) for name, tensor in prompt.images.items()}
        assert not pickle.loads(pickle.dumps(replace(prompt, images=pixels))).images  # large ones are left out
    sent = [replace(prompt, images={}) for prompt in prompts]
    with torch.no_grad():
        assert torch.equal(elsewhere.score(sent, replies).logprobs, model.score(prompts, replies).logprobs)


def test_the_score_is_that_of_the_model_called_by_hand(checkpoint: Path) -> None:
    """One unpadded sample in the model's own forward pass, which computes positions and masks itself."""
    model = load(checkpoint)
    prompt, reply = encoded(model)[1], model.encoder.reply("go up")
    ids = torch.cat([prompt.input_ids, reply])[None]
    marks = {name: torch.cat([marks, torch.zeros_like(reply)])[None] for name, marks in prompt.marks.items()}
    with torch.no_grad():
        logits = model.model(input_ids=ids, **marks, **prompt.images).logits[0, len(prompt.input_ids) - 1 : -1]
        scores = model.score([prompt], [reply])
    logits[:, model.suppressed] = -torch.inf
    by_hand = (logits / 0.7).log_softmax(-1)[torch.arange(len(reply)), reply]
    torch.testing.assert_close(scores.logprobs[0], by_hand, atol=1e-5, rtol=0)


def test_the_output_head_sees_no_prompt_token_but_the_last(checkpoint: Path) -> None:
    model = load(checkpoint)
    rows: list[int] = []
    model.model.get_output_embeddings().register_forward_hook(lambda _m, _i, logits: rows.append(logits.shape[1]))
    model.score(encoded(model), [model.encoder.reply("up")] * 3)
    model.values(encoded(model))
    model.generate(encoded(model), streams())
    assert rows[0] == len(model.encoder.reply("up"))
    assert set(rows[1:]) == {1}


def test_sft_then_ppo(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    settings = SFTSettings(epochs=4, batch_size=4, micro_batch_size=4, learning_rate=1e-2, device="cpu")
    run_sft(data=data, init=checkpoint, out=tmp_path / "sft", settings=settings)
    losses = _column(tmp_path / "sft", "loss")
    assert losses[-1] < 0.8 * losses[0]
    play = PPOSettings(
        total_env_steps=8,
        num_envs=4,
        num_steps=8,
        ppo_epochs=1,
        minibatch_size=4,
        micro_batch_size=4,
        max_new_tokens=10,
        learning_rate=1e-3,
        temperature=0.7,
        value_sizes=(16,),
        device="cpu",
    )
    init = tmp_path / "sft" / "checkpoint"
    run_ppo(task="NumberLine", style=Style.COT, init=init, out=tmp_path / "ppo", seed=1, settings=play)
    assert _column(tmp_path / "ppo", "first_ratio_error")[0] < 1e-4
    before, after = (load_backbone(folder).model.state_dict() for folder in (init, tmp_path / "ppo" / "checkpoint"))
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_adapters_reach_every_part_and_come_back(checkpoint: Path, parts: tuple[str, ...], tmp_path: Path) -> None:
    model = load(checkpoint, lora=LoraSettings(rank=2, alpha=4))
    prompts, replies = encoded(model), [model.encoder.reply("go up")] * 3
    bare = load(checkpoint).score(prompts, replies)
    torch.testing.assert_close(model.score(prompts, replies).logprobs, bare.logprobs)  # a new adapter adds nothing
    optimizer = torch.optim.Adam(trainable(model), lr=1e-2)
    for _ in range(2):  # B starts at 0, and A has no gradient before the first step
        optimizer.zero_grad()
        scores = model.score(prompts, replies)
        (scores.logprobs.sum() + scores.values.sum()).backward()
        optimizer.step()
    names = {name for name, parameter in model.model.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name for name in names)
    for part in parts:
        for half in ("lora_A", "lora_B"):
            found = [p.grad for n, p in model.model.named_parameters() if n.startswith(part) and half in n]
            assert found, f"{half} in {part}"
            # Some vision towers have last layers whose output is not used.
            assert any(grad is not None and grad.norm() > 0 for grad in found), f"{half} in {part}"
    model.save(tmp_path)
    after = model.score(prompts, replies)
    assert not torch.allclose(after.logprobs, bare.logprobs, atol=1e-2)
    again = load(tmp_path)
    loaded = again.score(prompts, replies)
    assert torch.equal(loaded.logprobs, after.logprobs)
    assert torch.equal(loaded.values, after.values)
    assert {name for name, parameter in again.model.named_parameters() if parameter.requires_grad} == names
    assert not list(tmp_path.glob("model*.safetensors"))
    write_merged(tmp_path, tmp_path / "merged", dtype="float32")
    merged = load(tmp_path / "merged").score(prompts, replies)
    torch.testing.assert_close(merged.logprobs, after.logprobs, atol=1e-4, rtol=0)


def test_gradient_checkpointing_changes_memory_alone(checkpoint: Path) -> None:
    gradients = []
    for on in (False, True):
        model = load(checkpoint, gradient_checkpointing=on)
        model.eval()
        calls = [0]
        layer = next(module for name, module in model.model.named_modules() if name.endswith("layers.0.mlp"))
        layer.register_forward_pre_hook(lambda *_, calls=calls: calls.__setitem__(0, calls[0] + 1))
        scores = model.score(encoded(model), [model.encoder.reply("go up")] * 3)
        (scores.logprobs.sum() + scores.values.sum()).backward()
        assert calls[0] == 1 + on
        gradients.append({name: p.grad for name, p in model.model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-4)


def test_bfloat16_weights_give_float32_scores(checkpoint: Path) -> None:
    model = load(checkpoint, dtype="bfloat16", lora=LoraSettings(rank=2, alpha=4))
    dtypes = {p.dtype for name, p in model.named_parameters() if "lora_" not in name and "value_head" not in name}
    assert torch.bfloat16 in dtypes
    assert {p.dtype for p in trainable(model)} == {torch.float32}
    replies = model.generate(encoded(model), streams())
    scores = model.score(encoded(model), [reply.ids for reply in replies])
    assert scores.logprobs.dtype == scores.values.dtype == torch.float32
    for row, reply in enumerate(replies):
        torch.testing.assert_close(scores.logprobs[row, : len(reply.ids)], reply.logprobs, atol=0.15, rtol=0)
    (scores.logprobs.sum() + scores.values.sum()).backward()


def test_a_reply_ends_as_the_chat_template_ends_it(checkpoint: Path) -> None:
    backbone = load_backbone(checkpoint)
    processor, tokenizer = backbone.processor, backbone.processor.tokenizer
    unended = "{% for message in messages %}{{ message['content'][0]['text'] }}{% endfor %}"
    processor.chat_template = unended
    assert Encoder(processor).eos_id == tokenizer.eos_token_id
    for broken in ("{{ raise_exception('no') }}", "{% for %}", "{{ messages[0]['content'] + '</s>' }}", "{{ 1 / 0 }}"):
        processor.chat_template = broken
        encoder = Encoder(processor)
        assert encoder.eos_id == tokenizer.eos_token_id
        with pytest.raises(ValueError, match=rf"the chat template of {checkpoint} cannot write a turn with an image"):
            encoder.chat("up")
    other = next(i for i in tokenizer.all_special_ids if i not in (tokenizer.eos_token_id, tokenizer.bos_token_id))
    processor.chat_template = unended + tokenizer.convert_ids_to_tokens(other) + "\n"
    encoder = Encoder(processor)
    assert encoder.eos_id == other == encoder.reply("up")[-1]
    assert other not in encoder.suppressed_ids(0)
    assert tokenizer.eos_token_id in encoder.suppressed_ids(0)


def test_the_familys_full_processor_gives_the_same(family: str, checkpoint: Path) -> None:
    """Only if the packages for a family's video part are installed."""
    needs = FAMILIES[family].needs if family in FAMILIES else ()
    for package in needs:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{family}'s full processor needs {package}, which is not installed")
    processor = AutoProcessor.from_pretrained(checkpoint)
    assert isinstance(processor, ProcessorMixin)
    assert type(processor) is type(load_backbone(checkpoint).processor)


def test_adapters_are_checked_when_training_goes_on(checkpoint: Path) -> None:
    model = load_backbone(checkpoint, lora=LoraSettings(rank=2, alpha=4)).model
    ensure_adapter(model, LoraSettings(rank=2, alpha=4))
    with pytest.raises(ValueError, match=r"adapter has rank 2 and alpha 4 on .* but rank 3"):
        ensure_adapter(model, LoraSettings(rank=3, alpha=4))


def _column(folder: Path, name: str) -> list[float]:
    return [json.loads(line)[name] for line in (folder / "metrics.jsonl").read_text().splitlines()]
