"""Models behind endpoints in the workflow: left out without a key, evaluated with one."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import yaml

from tests.policies.api.endpoint import Endpoint, completion, serving
from tests.workflow.conftest import Workspace

pytestmark = pytest.mark.system

TARGET = "results/smoke/eval/api-mine-NumberLine/summary.json"


def overlays(space: Workspace, url: str) -> list[str]:
    model = {"base_url": url, "model": "m", "key_env": "MADE_UP_KEY", "method": "Mine", "concurrency": 2}
    Path(space.folder, "mine.yaml").write_text(yaml.safe_dump({"api_models": {"mine": model}}))
    return ["--configfile", "config/smoke.yaml", "mine.yaml"]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A copy of its own, since jobs run in it."""
    return Workspace(tmp_path_factory.mktemp("api"))


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MADE_UP_KEY", raising=False)


def test_a_key_adds_the_models_evaluations_and_nothing_else(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = overlays(workspace, "https://example.org/v1")
    without = Counter(job.rule for job in workspace.planned(*config))
    monkeypatch.setenv("MADE_UP_KEY", "secret")
    # ALFWorld is evaluated on two sets of games.
    assert Counter(job.rule for job in workspace.planned(*config)) - without == Counter(evaluate_api=6)
    assert "evaluate_api" not in without


def test_asked_for_by_name_without_a_key_it_names_the_variable(workspace: Workspace) -> None:
    done = workspace.snakemake(TARGET, *overlays(workspace, "http://127.0.0.1:9/v1"))
    assert done.returncode != 0
    assert "API model 'mine' needs a key: set the environment variable MADE_UP_KEY" in done.stderr + done.stdout


def test_with_a_key_it_is_evaluated(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MADE_UP_KEY", "secret")
    with serving(Endpoint(say=lambda body: completion('{"action": "+"}'))) as endpoint:
        done = workspace.snakemake(TARGET, *overlays(workspace, endpoint.url), fork_jobs=True)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((workspace.folder / TARGET).read_text())
    assert (summary["method"], summary["kind"], summary["episodes"]) == ("Mine", "api", 4)
    assert (workspace.folder / "results" / "smoke" / "api_cache").is_dir()
