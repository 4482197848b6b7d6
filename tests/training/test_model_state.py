"""A state is restored exactly: weights, random streams, environments in the middle of an episode."""

from __future__ import annotations

import gc
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from rl4vlm.core.seeding import stream
from rl4vlm.core.types import Style
from rl4vlm.envs.registration import make_env
from rl4vlm.interaction.play import Slot, advance
from rl4vlm.models.lora import trainable
from rl4vlm.tasks.registry import get_task
from rl4vlm.training.model_state import (
    ModelState,
    random_streams,
    read,
    restore_random_streams,
    restore_tensors,
    trained_tensors,
    write,
)
from rl4vlm.training.store import StateStore
from tests.fakes import FakePolicy, climb_slot
from tests.games import GAMES


def through_a_file(content, folder):
    with (folder / "state").open("wb") as file:
        write(content, file)
    return read(folder / "state")


def card_slot(name, seed):
    task = get_task(name)
    return Slot(make_env(name), task, Style.COT, task.prompt, seed)


def play(slots, steps):
    """Everything that `steps` random steps show, and the next numbers of the streams."""
    policy = FakePolicy(
        lambda request: f'"action": "{request.view.actions[request.rng.integers(len(request.view.actions))]}"'
    )
    rows = [advance(slots, policy) for _ in range(steps)]
    shown = [(s.request.prompt, s.request.image.tobytes(), s.action, s.reward, s.episode) for row in rows for s in row]
    return shown, [slot.rng.random() for slot in slots], [slot.env.np_random.random() for slot in slots]


@pytest.mark.parametrize("task", GAMES)
def test_slots_go_on_as_if_nothing_had_been(task, tmp_path: Path) -> None:
    slots = [card_slot(task, seed) for seed in (1, 2)]
    play(slots, 3)
    saved = through_a_file({"slots": slots}, tmp_path)["slots"]
    assert play(saved, 12) == play(slots, 12)


def test_what_is_shared_stays_shared(tmp_path: Path) -> None:
    slot = climb_slot()
    saved = through_a_file({"slots": [slot], "rows": [slot.request]}, tmp_path)
    (slot,) = saved["slots"]
    assert saved["rows"][0] is slot.request
    assert slot.request.rng is slot.rng
    assert slot.request.env is slot.env


def test_random_streams_come_back(tmp_path: Path) -> None:
    def draw():
        return random.random(), np.random.rand(), float(torch.rand(())), rng.random()

    rng = stream(1, "minibatches")
    draw()
    state = {"streams": random_streams(), "rng": rng}
    saved = through_a_file(state, tmp_path)
    expected = draw()
    restore_random_streams(saved["streams"])
    rng = saved["rng"]
    assert draw() == expected


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.frozen = torch.nn.Linear(2, 2)
        self.trained = torch.nn.Linear(2, 1, bias=False)
        self.tied = self.trained
        self.norm = torch.nn.BatchNorm1d(2, affine=False)
        self.frozen.requires_grad_(False)

    def forward(self, x):
        return self.trained(self.norm(self.frozen(x)))


@pytest.mark.parametrize("fused", [None, True])
def test_weights_optimiser_and_schedule_come_back(fused, tmp_path: Path) -> None:
    def make():
        torch.manual_seed(0)
        model = Small()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=fused)
        return model, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=9, eta_min=1e-3)

    def train(model, optimizer, schedule, steps):
        for step in range(steps):
            optimizer.zero_grad()
            model(torch.tensor([[1.0, step], [2.0, 1.0]])).sum().backward()
            optimizer.step()
            schedule.step()
        return [*(tensor.clone() for tensor in model.state_dict().values()), torch.tensor(schedule.get_last_lr())]

    model, optimizer, schedule = make()
    train(model, optimizer, schedule, 4)
    content = {"model": trained_tensors(model), "opt": optimizer.state_dict(), "lr": schedule.state_dict()}
    saved = through_a_file(content, tmp_path)
    assert {name.split(".")[0] for name in saved["model"]} == {"trained", "norm"}
    again = make()
    restore_tensors(again[0], saved["model"])
    again[1].load_state_dict(saved["opt"])
    again[2].load_state_dict(saved["lr"])
    for ours, theirs in zip(train(again[0], again[1], again[2], 3), train(model, optimizer, schedule, 3), strict=True):
        assert torch.equal(ours, theirs)


def test_a_mapped_state_is_shared_while_it_is_put_back_and_let_go(tmp_path: Path) -> None:
    """Eight processes on a machine must not hold 45 GB each, nor read from a file after it was removed."""

    def make(seed):
        torch.manual_seed(seed)
        model = Small()
        optimizer = torch.optim.Adam(trainable(model), lr=0.1)
        model(torch.rand(3, 2)).sum().backward()
        optimizer.step()
        return ModelState(model, optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer))

    def mapped():
        return str(file) in Path("/proc/self/maps").read_text()

    file, first, other = tmp_path / "model_state.pt", make(1), make(2)
    with file.open("wb") as opened:
        write(first.capture(), opened)
    saved = read(file)
    assert not mapped()
    saved = read(file, mapped=True)
    assert mapped()
    other.restore(saved)
    del saved
    gc.collect()
    assert not mapped()
    assert torch.equal(other.model.trained.weight, first.model.trained.weight)
    for ours, theirs in zip(other.optimizer.state.values(), first.optimizer.state.values(), strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_weights_of_another_model_are_refused() -> None:
    with pytest.raises(ValueError, match="of another model: 'bias' differs"):
        restore_tensors(torch.nn.Linear(1, 1), {"weights": torch.zeros(1)})


class Locked:
    def __getstate__(self):
        raise TypeError("the engine runs elsewhere")


class Reopened:
    """Like an environment whose engine is another process: it defines itself how it is pickled."""

    def __init__(self):
        self.engine, self.moves = Locked(), ["north"]

    def __getstate__(self):
        return {"moves": self.moves}

    def __setstate__(self, saved):
        self.engine, self.moves = Locked(), saved["moves"]


def test_an_environment_may_say_how_it_is_saved(tmp_path: Path) -> None:
    assert through_a_file({"env": Reopened()}, tmp_path)["env"].moves == ["north"]
    with pytest.raises(ValueError, match="cannot be saved: the engine runs elsewhere"):
        through_a_file({"env": Locked()}, tmp_path)
    with pytest.raises(ValueError, match="cannot be saved"):
        through_a_file({"env": lambda: None}, tmp_path)


def test_a_disk_that_is_full_in_the_middle_is_named(tmp_path: Path) -> None:
    """torch.save hides the error of the write; the store reports it."""
    store = StateStore(tmp_path / "state", {})
    with store.saving() as draft, draft.file("a.pt") as file:
        write({"weights": torch.zeros(10)}, file)

    def save_on_a_full_device():
        with store.saving() as draft:
            (draft.folder / "a.pt").symlink_to("/dev/full")
            with draft.file("a.pt") as file:
                write({f"weights{index}": torch.zeros(10_000) for index in range(10)}, file)

    with pytest.raises(ValueError, match=rf"saved in {tmp_path / 'state'}.*: No space left on device; .* 00000001"):
        save_on_a_full_device()
    newest = store.newest()
    assert newest is not None
    assert newest.name == "00000001"
