"""The CNN+RL baseline's network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rl4vlm.config.stages.cnn import CNNSizes
from rl4vlm.core.types import View
from rl4vlm.models.cnn import CNNActorCritic, downscale, text_of, word_buckets

SIZES = CNNSizes(image_size=40, channels=(4, 4, 4), width=16, text_embedding=4, text_width=8)
ACTIONS = ("1", "10", "+", "=")


@pytest.fixture(params=[False, True], ids=["picture", "picture and text"])
def model(request):
    torch.manual_seed(0)
    made = CNNActorCritic(ACTIONS, reads_text=request.param, sizes=SIZES, temperature=0.5)
    # Far from uniform, so that wrong probabilities show.
    torch.nn.init.normal_(made.policy_head.weight)
    return made


def observations(model, count=5):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(count, 300, 300, 3), dtype=np.uint8)
    views = [View(ACTIONS, {"formula": "7 + " * row}) for row in range(count)]
    return [model.observe(*pair) for pair in zip(images, views, strict=True)]


def test_shapes_and_types(model) -> None:
    seen = observations(model)
    assert (seen[0].image.shape, seen[0].image.dtype) == ((3, 40, 40), torch.uint8)
    log_probs, values = model(seen)
    assert log_probs.shape == (5, 4)
    assert values.shape == (5,)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(5))
    assert model.values(seen) == pytest.approx(values.detach().numpy())


def test_batch_and_order_change_nothing(model) -> None:
    seen = observations(model)
    log_probs, values = model(seen)
    for row, one in enumerate(seen):
        alone, value = model([one])
        torch.testing.assert_close(alone[0], log_probs[row], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(value[0], values[row], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model(seen[::-1])[0].flip(0), log_probs, atol=1e-5, rtol=1e-5)


def test_text_counts_only_where_it_is_read() -> None:
    image = np.zeros((300, 300, 3), dtype=np.uint8)
    for reads_text in (True, False):
        torch.manual_seed(0)
        model = CNNActorCritic(ACTIONS, reads_text=reads_text, sizes=SIZES, temperature=1.0)
        one, other = model.values([model.observe(image, View(ACTIONS, {"formula": text})) for text in ("", "7 +")])
        assert (one != other) is np.bool_(reads_text)


def test_of_a_long_text_the_end_is_read() -> None:
    model = CNNActorCritic(ACTIONS, reads_text=True, sizes=CNNSizes(text_limit=3), temperature=1.0)
    seen = model.observe(np.zeros((300, 300, 3), dtype=np.uint8), View(ACTIONS, {"formula": "1 + 2"}))
    assert bytes(seen.text.tolist()) == b"+ 2"


def test_fields_become_one_text_that_is_never_empty() -> None:
    assert text_of({"b": "2", "a": ""}) == "a: \nb: 2"
    assert text_of({}) == "\n"


def test_every_image_reaches_every_part(model) -> None:
    log_probs, values = model(observations(model))
    (log_probs[:, 0].sum() + values.sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_illegal_actions_are_never_played(model) -> None:
    legal = ("10", "=")
    seen = model.observe(np.zeros((300, 300, 3), dtype=np.uint8), View(legal, {"formula": ""}))
    log_probs, _ = model([seen])
    assert log_probs.isinf()[0].tolist() == [True, False, True, False]
    chosen, taken, _ = model.act([seen] * 50, [np.random.default_rng(row) for row in range(50)])
    assert {ACTIONS[index] for index in chosen} == set(legal)
    assert taken == pytest.approx(log_probs[0, chosen].detach().numpy(), abs=1e-5)


def test_an_unknown_action_is_named(model) -> None:
    with pytest.raises(ValueError, match="1, 10, \\+, =, not 'hit'"):
        model.observe(np.zeros((300, 300, 3), dtype=np.uint8), View(("hit",)))


def test_draws_follow_the_policy(model) -> None:
    (one, *_) = observations(model)
    chosen, _, _ = model.act([one] * 4000, [np.random.default_rng(row) for row in range(4000)])
    shares = np.bincount(chosen, minlength=4) / 4000
    assert shares == pytest.approx(model([one])[0].exp()[0].detach().numpy(), abs=0.04)


def test_temperature_sharpens_and_zero_is_greedy(model) -> None:
    seen = observations(model)
    at_half = model(seen)[0]
    model.temperature = 0.0
    at_one = model(seen)[0]
    torch.testing.assert_close(at_half, torch.log_softmax(at_one / 0.5, dim=-1), atol=1e-5, rtol=1e-5)
    chosen, _, _ = model.act(seen, [np.random.default_rng(0)] * 5)
    assert chosen == at_one.argmax(-1).tolist()


def test_save_and_load_give_the_same_network(model, tmp_path: Path) -> None:
    model.save(tmp_path)
    again = CNNActorCritic.load(tmp_path, temperature=0.5)
    assert (again.actions, again.reads_text, again.sizes) == (model.actions, model.reads_text, model.sizes)
    seen = observations(model)
    for before, after in zip(model(seen), again(seen), strict=True):
        assert torch.equal(before, after)


COMMANDS = (("go to shelf 1", "take apple 1 from shelf 10"), ("look",), ("open fridge 1", "go to shelf 10", "look"))


@pytest.fixture
def reader():
    """A network that chooses among the commands of each step, far from uniform."""
    torch.manual_seed(0)
    made = CNNActorCritic(None, reads_text=False, sizes=SIZES, temperature=0.5, fields=("goal", "scene"))
    torch.nn.init.normal_(made.policy_head.weight)
    return made


def situations(model):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(3, 300, 300, 3), dtype=np.uint8)
    views = [View(actions, {"goal": f"put {actions[0]}", "scene": ""}) for actions in COMMANDS]
    return [model.observe(*pair) for pair in zip(images, views, strict=True)]


class TestChangingActions:
    def test_each_sample_has_its_own_commands_whatever_the_batch(self, reader) -> None:
        seen = situations(reader)
        log_probs, values = reader(seen)
        assert log_probs.shape == (3, 3)
        assert log_probs.isinf().tolist() == [[False, False, True], [False, True, True], [False, False, False]]
        torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(3))
        for row, one in enumerate(seen):
            alone, value = reader([one])
            torch.testing.assert_close(alone[0], log_probs[row, : len(COMMANDS[row])], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(value[0], values[row], atol=1e-5, rtol=1e-5)

    def test_a_command_is_scored_by_its_words_wherever_it_stands(self, reader) -> None:
        image, fields = np.zeros((300, 300, 3), dtype=np.uint8), {"goal": "look", "scene": ""}
        one, other = (
            reader([reader.observe(image, View(actions, fields))])[0][0] for actions in (COMMANDS[2], COMMANDS[2][::-1])
        )
        torch.testing.assert_close(one.flip(0), other, atol=1e-5, rtol=1e-5)
        assert len(set(one.detach().numpy().round(4))) == 3

    def test_every_field_and_word_counts(self, reader) -> None:
        image = np.zeros((300, 300, 3), dtype=np.uint8)
        texts = [("", ""), ("apple", ""), ("", "apple"), ("", "apple 1"), ("", "apple 2")]
        views = [View(("look",), {"goal": goal, "scene": scene}) for goal, scene in texts]
        values = reader.values([reader.observe(image, view) for view in views])
        assert len(set(values.round(6))) == len(texts)

    def test_gradients_reach_every_part_and_no_word_that_was_not_there(self, reader) -> None:
        seen = situations(reader)
        log_probs, values = reader(seen)
        (log_probs[:, 0].sum() + values.sum()).backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in reader.parameters())
        there = {int(word) for one in seen for words in (*one.fields, *one.commands) for word in words}
        moved = reader.words.weight.grad.abs().sum(-1).nonzero().flatten().tolist()
        assert set(moved) <= there

    def test_draws_are_a_samples_own_and_follow_the_policy(self, reader) -> None:
        seen = situations(reader)
        rows = [reader.act(seen, [np.random.default_rng([row, k]) for k in range(3)])[0] for row in range(2000)]
        shares = np.stack([np.bincount(column, minlength=3) / 2000 for column in zip(*rows, strict=True)])
        assert shares == pytest.approx(reader(seen)[0].exp().detach().numpy(), abs=0.05)
        alone = reader.act(seen[2:], [np.random.default_rng([7, 2])])[0]
        assert alone == [rows[7][2]]

    def test_save_and_load_give_the_same_network(self, reader, tmp_path: Path) -> None:
        reader.save(tmp_path)
        again = CNNActorCritic.load(tmp_path, temperature=0.5)
        assert (again.actions, again.fields) == (None, ("goal", "scene"))
        for before, after in zip(reader(situations(reader)), again(situations(again)), strict=True):
            assert torch.equal(before, after)


def test_words_are_the_same_everywhere() -> None:
    # CRC-32 of "shelf", "shelf 1" and "look", from another implementation.
    assert word_buckets("Shelf 1, look!", 2**32).tolist() == [2772917219, 208255859, 725275650]
    assert word_buckets("", 8).tolist() == []


def test_a_folder_without_a_network_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=str(tmp_path)):
        CNNActorCritic.load(tmp_path, temperature=0.5)


def test_each_small_pixel_is_the_mean_of_those_it_stands_for() -> None:
    image = np.zeros((300, 300, 3), dtype=np.uint8)
    image[:3, 3:6, 1] = np.arange(9).reshape(3, 3) * 10
    small = downscale(image, 100)
    assert small[1, 0, 1] == 40
    assert small.sum() == 40


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"image_size": 30}, "image_size 30"), ({"text_limit": 0}, "text_limit"), ({"word_width": 0}, "word_width")],
)
def test_sizes_that_cannot_be_are_named(changes, word) -> None:
    with pytest.raises(ValueError, match=word):
        CNNSizes(**changes)
