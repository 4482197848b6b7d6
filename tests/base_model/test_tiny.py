"""The embedded base model: its size, tokenizer and processor, and that it learns to read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration

from rl4vlm.base_model import download
from rl4vlm.base_model.learn import begin, build_base, lesson_loss, perception_accuracy, train
from rl4vlm.base_model.pretrain import copy_shipped, run
from rl4vlm.base_model.samples import READ_PROMPT, Glimpse, Lesson, glimpses
from rl4vlm.base_model.tiny import build, train_tokenizer
from rl4vlm.config.code_digest import code_digest
from rl4vlm.config.stages.pretrain import PretrainSettings, TinySizes
from rl4vlm.core.types import Style
from rl4vlm.envs.registration import make_env
from rl4vlm.interaction.prompt import render, write_reply
from rl4vlm.models.encode import Encoder
from rl4vlm.tasks.number_line import NumberLine
from rl4vlm.tasks.registry import get_task
from tests.games import GAMES


@pytest.fixture(scope="module")
def base():
    return build_base(PretrainSettings(corpus=60))


def test_size_and_class(base) -> None:
    assert isinstance(base.model, LlavaForConditionalGeneration)
    assert 1e6 < sum(p.numel() for p in base.model.parameters()) < 3e6


@pytest.mark.parametrize("name", GAMES)
def test_replies_survive_the_tokenizer_and_split_at_the_key(base, name) -> None:
    encoder = Encoder(base.processor)
    env = make_env(name)
    for seed in range(20):
        env.reset(seed=seed)
        expert_action = env.expert_action()
        text = write_reply(expert_action.entries, expert_action.action, Style.COT)
        ids = encoder.reply(text).tolist()
        assert encoder.decode(ids) == text
        start = encoder.token_at(ids, text.index('"action":'))
        assert encoder.decode(ids[start:]).startswith('"action":')


@pytest.mark.parametrize("name", GAMES)
def test_prompts_are_short_in_tokens(base, name) -> None:
    env = make_env(name)
    image, _ = env.reset(seed=0)
    prompt = render(get_task(name).prompt, env.view(), Style.COT)
    ids = Encoder(base.processor).prompt(image, prompt).input_ids.tolist()
    assert ids.count(base.model.config.image_token_id) == TinySizes().image_tokens
    assert len(ids) < TinySizes().image_tokens + 24


def test_unseen_text_still_encodes(base) -> None:
    tokenizer = base.processor.tokenizer
    text = "A prompt nobody wrote: çüñ 字 \N{GRINNING FACE}\n\t{}"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_same_seed_same_weights(base) -> None:
    again = build_base(PretrainSettings(corpus=60)).model.state_dict()
    assert all((again[name] == tensor).all() for name, tensor in base.model.state_dict().items())


def test_run_writes_an_ordinary_checkpoint_with_its_perception(tmp_path: Path) -> None:
    sizes = TinySizes(image_size=60, width=32, vision_layers=1, language_layers=1, heads=2, mlp=64)
    settings = PretrainSettings(pretrain_tasks=("NumberLine",), steps=2, batch_size=4, corpus=10, probe=8, sizes=sizes)
    run(out=tmp_path / "base", settings=settings)
    AutoModelForImageTextToText.from_pretrained(tmp_path / "base")
    AutoProcessor.from_pretrained(tmp_path / "base")
    perception = json.loads((tmp_path / "base" / "perception.json").read_text())
    assert set(perception["tasks"]["NumberLine"]) == {"current number", "target number"}
    record = json.loads((tmp_path / "base" / "run.json").read_text())
    assert record["code"]["digest"] == code_digest("rl4vlm.base_model.learn", ["NumberLine"])
    copy_shipped(source=tmp_path / "base", out=tmp_path / "copy")
    assert (tmp_path / "copy" / "model.safetensors").read_bytes() == (
        tmp_path / "base" / "model.safetensors"
    ).read_bytes()
    copy_shipped(source=tmp_path / "base", out=tmp_path / "copy")
    weights = tmp_path / "base" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-64])
    for _ in range(2):  # also without a record that lists it
        with pytest.raises(ValueError, match=r"base/model\.safetensors is damaged"):
            copy_shipped(source=tmp_path / "base", out=tmp_path / "copy")
        (tmp_path / "base" / "run.json").unlink(missing_ok=True)


def test_a_loss_that_is_not_finite_ends_it_before_anything_is_written(tmp_path: Path) -> None:
    sizes = TinySizes(image_size=60, width=32, vision_layers=1, language_layers=1, heads=2, mlp=64)
    settings = PretrainSettings(pretrain_tasks=("NumberLine",), steps=9, corpus=10, learning_rate=1e30, sizes=sizes)
    with pytest.raises(ValueError, match=r"base model, step \d of 9: loss is nan"):
        run(out=tmp_path / "base", settings=settings)
    assert list(tmp_path.iterdir()) == []


def test_somebodys_files_are_not_erased(tmp_path: Path) -> None:
    """Before the model is built."""
    for name in ("home", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    settings = PretrainSettings(pretrain_tasks=("no such task",))
    for make in (
        lambda out: run(out=out, settings=settings),
        lambda out: copy_shipped(source=tmp_path / "other", out=out),
        lambda out: download.run(name="no/model", revision=None, out=out),
    ):
        with pytest.raises(ValueError, match=r"config.json would be replaced .* stage base_model or prefetch wrote it"):
            make(tmp_path / "home")
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["config.json"]


@pytest.mark.parametrize("out", [".", "copy", ".."])
def test_a_model_is_not_copied_into_itself(out: str, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="would be overwritten by what is made from it"):
        copy_shipped(source=tmp_path / "home", out=tmp_path / "home" / out)
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["config.json"]


def test_shipping_from_nowhere_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        copy_shipped(source=tmp_path / "nowhere", out=tmp_path / "copy")


def test_pretraining_lowers_the_loss(tmp_path: Path) -> None:
    sizes = TinySizes(image_size=60, width=32, vision_layers=1, language_layers=1, heads=2, mlp=64)
    settings = PretrainSettings(
        pretrain_tasks=("NumberLine",), steps=60, batch_size=8, learning_rate=1e-2, corpus=10, sizes=sizes
    )
    state = begin(settings)
    train(state, settings, tmp_path, lambda state: None)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    assert set(perception_accuracy(state.backbone, "NumberLine", settings)) == {"current number", "target number"}


def test_weight_decay_keeps_the_matrices_of_muon_small(tmp_path: Path) -> None:
    sizes = TinySizes(image_size=60, width=32, vision_layers=1, language_layers=1, heads=2, mlp=64)
    norms = []
    for weight_decay in (0.0, 10.0):
        settings = PretrainSettings(
            pretrain_tasks=("NumberLine",), steps=20, batch_size=4, learning_rate=1e-2, muon_learning_rate=1e-2,
            weight_decay=weight_decay, corpus=10, sizes=sizes,
        )  # fmt: skip
        state = begin(settings)
        train(state, settings, tmp_path, lambda state: None)
        matrix = state.backbone.model.get_parameter("model.language_model.layers.0.mlp.up_proj.weight")
        norms.append(float(matrix.detach().norm()))
    assert norms[1] < 0.9 * norms[0]


COMMANDS = '"go to apple 1", "take apple 1 from snapple 12". Bring an apple, go to it.'


def test_words_are_kept_whole_wherever_they_stand() -> None:
    tokenizer = train_tokenizer([COMMANDS] * 50, [], 400, words={"apple", '"go to', '"take'})
    ids = tokenizer(COMMANDS)["input_ids"]
    tokens = [tokenizer.decode([i]) for i in ids]
    assert tokenizer.decode(ids) == COMMANDS
    assert tokens.count(" apple") == 3  # in the commands and in the sentence, but no part of `snapple`
    assert {'"go to', ' "take', " 1", " 12"} <= set(tokens)


def test_without_words_a_tokenizer_is_what_it_was() -> None:
    plain = train_tokenizer([COMMANDS] * 50, [], 400)
    assert [plain.decode([i]) for i in plain("apple 12")["input_ids"]][-1] == "12"


def test_lesson_loss_is_that_of_each_lesson_alone() -> None:
    """Neither the order of the lessons nor their padding changes the loss."""
    sizes = TinySizes(image_size=60, width=32, vision_layers=1, language_layers=1, heads=2, mlp=64)
    backbone = build([COMMANDS], sizes, seed=1)
    encoder, model = Encoder(backbone.processor), backbone.model.eval()
    image = np.zeros((300, 300, 3), dtype=np.uint8)
    lessons = [Lesson(COMMANDS[: 3 + 5 * n], (("Which?", COMMANDS[n:]),)) for n in range(12)]
    batch = [Glimpse(image, {}, lesson) for lesson in lessons]
    with torch.no_grad():
        whole = lesson_loss(model, encoder, batch)
        alone = [float(lesson_loss(model, encoder, [one])) for one in batch]
    counts = [
        len(encoder.prompt(image, lesson.text).input_ids)
        - 1
        - sizes.image_tokens
        + len(encoder.reply(f"Which? {lesson.asked[0][1]}."))
        for lesson in lessons
    ]
    assert float(whole) == pytest.approx(np.average(alone, weights=counts), rel=1e-4)


class Asking(NumberLine):
    """A task that asks one question of its prompt."""

    def questions(self, view, rng):
        return [("How many commands are there?", str(len(view.actions)))]


def test_lessons_ask_of_the_prompt_and_of_the_image() -> None:
    env = make_env("NumberLine")
    glimpse = next(glimpses(env, np.random.default_rng(0), Asking()))
    assert glimpse.lesson is not None
    assert glimpse.lesson.asked == (("How many commands are there?", "2"), (READ_PROMPT, glimpse.answer))
    assert "Answer in JSON" not in glimpse.lesson.text
    assert next(glimpses(env, np.random.default_rng(0), get_task("NumberLine"))).lesson is None
