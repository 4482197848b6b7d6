"""A state is restored exactly: weights, random streams, environments in the middle of an episode."""

from __future__ import annotations

import gc
import os
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from rl4vlm.core.types import Style
from rl4vlm.envs.registration import make_env
from rl4vlm.interaction.play import Slot, advance
from rl4vlm.models.lora import trainable
from rl4vlm.tasks.registry import get_task
from rl4vlm.training.model_state import (
    ModelState,
    random_streams,
    restore_random_streams,
    restore_tensors,
    trained_tensors,
)
from rl4vlm.training.state_file import read, write
from rl4vlm.training.store import StateStore
from tests.fakes import FakePolicy
from tests.games import GAMES


def through_a_file(content, folder):
    with (folder / "state").open("wb") as file:
        write(content, file)
    return read(folder / "state")


def card_slot(name, seed):
    task = get_task(name)
    return Slot(make_env(name), task, Style.COT, task.prompt, seed)


RANDOM = FakePolicy(
    lambda request: f'"action": "{request.view.actions[request.rng.integers(len(request.view.actions))]}"'
)


def play(slots, steps):
    """Everything that `steps` random steps show, and the next numbers of the streams."""
    rows = [advance(slots, RANDOM) for _ in range(steps)]
    shown = [(s.request.prompt, s.request.image.tobytes(), s.action, s.reward, s.episode) for row in rows for s in row]
    return shown, [slot.rng.random() for slot in slots], [slot.env.np_random.random() for slot in slots]


@pytest.mark.parametrize("task", GAMES)
def test_slots_go_on_as_if_nothing_had_been(task, tmp_path: Path) -> None:
    slots = [card_slot(task, seed) for seed in (1, 2)]
    for _ in range(3):
        advance(slots, RANDOM)
    # A reply without an action draws one from the environment's stream.
    advance(slots, FakePolicy("nothing"))
    saved = through_a_file({"slots": [slot.state() for slot in slots]}, tmp_path)["slots"]
    again = [card_slot(task, seed) for seed in (3, 4)]
    for slot, state in zip(again, saved, strict=True):
        slot.load_state(state)
    assert play(again, 12) == play(slots, 12)


def test_an_environment_that_comes_out_elsewhere_is_refused() -> None:
    slot, other = card_slot("Blackjack", 1), card_slot("Blackjack", 1)
    while not slot.state()["played"]:
        advance([slot], RANDOM)
    with pytest.raises(ValueError, match="CardEnv did not come back to where it was saved"):
        other.load_state({**slot.state(), "played": []})
    other.load_state(slot.state())


def test_random_streams_come_back(tmp_path: Path) -> None:
    def draw():
        return random.random(), np.random.rand(), np.random.randn(), float(torch.rand(()))

    draw()
    saved = through_a_file({"streams": random_streams()}, tmp_path)
    expected = draw()
    restore_random_streams(saved["streams"])
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
def test_weights_optimizer_and_schedule_come_back(fused, tmp_path: Path) -> None:
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


@dataclass(frozen=True)
class Item:
    ids: torch.Tensor
    value: float


def test_a_state_holds_tensors_and_plain_data_only(tmp_path: Path) -> None:
    content = {"items": [Item(torch.arange(3), 0.5)], "order": (1, None, "a"), "big": 2**127}
    with (tmp_path / "state").open("wb") as file:
        write(content, file, [Item])
    saved = read(tmp_path / "state", [Item])
    assert (saved["items"][0].ids.tolist(), saved["items"][0].value) == ([0, 1, 2], 0.5)
    assert (saved["order"], saved["big"]) == (content["order"], content["big"])
    with pytest.raises(ValueError, match="holds more than tensors and plain data"):
        read(tmp_path / "state")
    for value in (np.float64(1), np.arange(2), Item(torch.zeros(1), 1.0), np.random.default_rng(1), lambda: None):
        with pytest.raises(ValueError, match=r"cannot be saved: it\.x\[\.\.\.\] is of type"):
            through_a_file({"x": [value]}, tmp_path)


class Command:
    def __reduce__(self):
        return os.system, ("touch ran",)


def test_a_file_with_code_is_refused_and_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"x": Command()}, tmp_path / "state")
    for mapped in (False, True):
        with pytest.raises(ValueError, match=r"state holds more than tensors and plain data, and is not loaded"):
            read(tmp_path / "state", mapped=mapped)
    assert not (tmp_path / "ran").exists()


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
