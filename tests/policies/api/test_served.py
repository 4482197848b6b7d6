"""A served checkpoint gives the same replies as in this process, and its server never outlives its parent."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rl4vlm.config.stages.evaluation import EvaluationSettings
from rl4vlm.core.gpus import claim_gpus
from rl4vlm.core.types import Style
from rl4vlm.evaluation.run import run
from rl4vlm.models import devices
from rl4vlm.policies.api.served import HOST, Server
from tests.conftest import TEXTS

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights, scaled up so that its greedy replies differ between images."""
    import torch

    from rl4vlm.base_model.tiny import build
    from rl4vlm.config.stages.pretrain import TinySizes
    from rl4vlm.models.encode import Encoder

    sizes = TinySizes(
        image_size=60, patch=15, width=32, vision_layers=1, language_layers=2, heads=2, mlp=64, vocabulary=400
    )
    backbone = build(TEXTS, sizes, seed=0)
    with torch.no_grad():
        for weights in backbone.model.parameters():
            if weights.ndim > 1:
                weights.mul_(12)
        # Make special tokens likely, so that the test fails if they are not suppressed.
        special = Encoder(backbone.processor).suppressed_ids(0)
        backbone.model.get_output_embeddings().weight[special] *= 2
    folder = tmp_path_factory.mktemp("talkative")
    backbone.save(folder)
    return folder


def test_a_server_takes_a_gpu_that_no_other_job_has(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    claimed: dict[int, Any] = {}
    monkeypatch.setattr(devices, "_claimed", claimed)
    started: list[list[str]] = []

    def spawn(command: list[str], **_: Any) -> None:
        started.append(command)
        raise OSError("not started here")

    monkeypatch.setattr(subprocess, "Popen", spawn)
    other = claim_gpus(["0", "1"])
    with pytest.raises(OSError, match="not started here"):
        Server(tiny_checkpoint, dtype="float32", device="auto").start()
    for file in (*other.values(), *claimed.values()):
        file.close()
    assert (*other, *claimed) == (0, 1)
    assert started[0][-2:] == ["--device", "cuda:1"]


def played(policy: str, out: Path, cache: Path) -> tuple[dict[str, Any], list[list[tuple[str, str]]]]:
    """The summary, and the (action, reply) pairs of each episode."""
    settings = EvaluationSettings(
        episodes=6,
        num_envs=3,
        temperature=0.0,
        max_new_tokens=16,
        device="cpu",
        api={"cache": str(cache), "concurrency": 2},
    )
    summary = run(policy=policy, task="NumberLine", style=Style.COT, out=out, settings=settings)
    lines = [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]
    return summary, [[(step["action"], step["reply"]) for step in line["steps"]] for line in lines]


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def test_replies_over_http_equal_those_in_process(
    talkative: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports: list[int] = []
    start = Server.start

    def start_and_record(server: Server) -> None:
        start(server)
        ports.append(server.port)

    monkeypatch.setattr(Server, "start", start_and_record)
    _, here = played(str(talkative), tmp_path / "here", tmp_path)
    summary, there = played(f"served:{talkative}", tmp_path / "there", tmp_path / "cache")
    assert there == here
    replies = {reply for episode in here for _, reply in episode}
    assert len(replies) > 5
    assert summary["api"]["new_requests"] == summary["api"]["requests"] >= len(replies)
    assert summary["api"]["output_tokens"] > 0
    assert (summary["kind"], summary["method"]) == ("http", f"checkpoint {talkative.name} over HTTP")
    assert not is_open(ports[0])


@pytest.mark.long
def test_a_served_adapter_plays_as_in_process(talkative: Path, tmp_path: Path) -> None:
    import torch

    from rl4vlm.config.stages.backbone import LoraSettings
    from rl4vlm.models.loading import load_backbone
    from rl4vlm.models.lora import trainable

    backbone = load_backbone(talkative, lora=LoraSettings(rank=4, alpha=8))
    torch.manual_seed(0)
    for weights in trainable(backbone.model):
        torch.nn.init.normal_(weights, std=0.3)
    backbone.save(tmp_path / "adapter")
    bare, here, there = (
        played(policy, tmp_path / name, tmp_path / "cache")[1]
        for name, policy in (
            ("bare", str(talkative)),
            ("here", str(tmp_path / "adapter")),
            ("there", f"served:{tmp_path / 'adapter'}"),
        )
    )
    assert there == here != bare


def test_the_server_ends_when_its_parent_is_killed(talkative: Path) -> None:
    user = (
        "import sys, time; from pathlib import Path; from rl4vlm.policies.api.served import Server;"
        "server = Server(Path(sys.argv[1]), dtype='float32', device='cpu'); server.start();"
        "print(server.port, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", user, str(talkative)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline())
        assert is_open(port)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    deadline = time.monotonic() + 10
    while is_open(port):
        assert time.monotonic() < deadline, "the server still runs"
        time.sleep(0.05)


def test_a_server_that_cannot_start_says_why_in_a_line_and_leaves_nothing(talkative: Path, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(talkative, tmp_path / "model"))
    (checkpoint / "model.safetensors").unlink()
    server = Server(checkpoint, dtype="float32", device="cpu")
    with pytest.raises(
        ValueError, match=rf"did not start with {checkpoint}; its last line: OSError: .*model\.safetensors.*$"
    ) as failed:
        server.start()
    assert "\n" not in str(failed.value)
    assert server.port
    assert not is_open(server.port)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("config.json", "no image-text-to-text checkpoint at '{}': Unrecognized model"),
        ("cnn.json", r"'{}' is a CNN\+RL checkpoint"),
        ("checkpoint/config.json", r"at '{0}': did you mean {0}/checkpoint\?"),
    ],
)
def test_a_folder_without_a_model_is_named_before_a_server_starts(
    file: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a server was started"))
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("{}")
    with pytest.raises(ValueError, match=message.format(tmp_path)):
        Server(tmp_path, dtype="float32", device="cpu").start()


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no checkpoint folder .*nowhere"):
        Server(tmp_path / "nowhere", dtype="float32", device="cpu")


def test_a_changed_checkpoint_has_another_name(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("1")
    first = Server(tmp_path, dtype="float32", device="cpu").model
    (tmp_path / "weights").write_text("2")
    assert Server(tmp_path, dtype="float32", device="cpu").model != first
