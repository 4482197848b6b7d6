"""Where a policy comes from: the method, stage, λ and seed that results name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rl4vlm.core.types import Style
from rl4vlm.evaluation.policy_origin import origin_of
from rl4vlm.results.origin import Origin


class TestOrigin:
    def checkpoint(self, folder: Path, record: dict[str, Any] | None) -> str:
        (folder / "checkpoint").mkdir()
        if record:
            (folder / "run.json").write_text(json.dumps(record))
        return str(folder / "checkpoint")

    @pytest.mark.parametrize(("style", "method"), [(Style.COT, "RL4VLM"), (Style.ACTION_ONLY, "RL4VLM-noCoT")])
    def test_of_a_ppo_run(self, tmp_path: Path, style: Style, method: str) -> None:
        record = {"stage": "ppo", "settings": {"thought_prob_coef": 0.3}, "seeds": {"ppo": 2}}
        assert origin_of(self.checkpoint(tmp_path, record), style, "NumberLine") == Origin(method, "ppo", 0.3, 2)

    @pytest.mark.parametrize(("style", "method"), [(Style.COT, "LLaVA-sft"), (Style.ACTION_ONLY, "LLaVA-sft-noCoT")])
    def test_of_a_warm_start(self, tmp_path: Path, style: Style, method: str) -> None:
        assert origin_of(
            self.checkpoint(tmp_path, {"stage": "sft", "seeds": {"sft": 2}}), style, "NumberLine"
        ) == Origin(method, "sft", seed=2)

    def test_on_another_task(self, tmp_path: Path) -> None:
        record = {"stage": "ppo", "settings": {"thought_prob_coef": 0.3, "task": "EZPoints"}, "seeds": {"ppo": 2}}
        checkpoint = self.checkpoint(tmp_path, record)
        assert origin_of(checkpoint, Style.COT, "EZPoints").method == "RL4VLM"
        assert origin_of(checkpoint, Style.COT, "NumberLine").method == "RL4VLM trained on EZPoints"

    def test_in_another_style_than_it_was_trained_in(self, tmp_path: Path) -> None:
        record = {"stage": "sft", "settings": {"style": "cot"}, "seeds": {"sft": 2}}
        checkpoint = self.checkpoint(tmp_path, record)
        assert origin_of(checkpoint, Style.COT, "EZPoints").method == "LLaVA-sft"
        assert origin_of(checkpoint, Style.ACTION_ONLY, "EZPoints").method == "LLaVA-sft played without thoughts"

    def test_a_folder_with_the_name_of_a_method_is_not_that_method(self, tmp_path: Path) -> None:
        (tmp_path / "solver").mkdir()
        assert origin_of(str(tmp_path / "solver"), Style.COT, "EZPoints") == Origin("checkpoint solver", "checkpoint")

    def test_of_a_cnn(self, tmp_path: Path) -> None:
        checkpoint = self.checkpoint(tmp_path, {"stage": "cnn", "settings": {}, "seeds": {"cnn": 3}})
        assert origin_of(f"cnn:{checkpoint}", Style.ACTION_ONLY, "NumberLine") == Origin("CNN+RL", "cnn", None, 3)
        Path(checkpoint, "cnn.json").touch()
        assert origin_of(checkpoint, Style.ACTION_ONLY, "NumberLine") == Origin("CNN+RL", "cnn", None, 3)

    def test_of_anything_else(self, tmp_path: Path) -> None:
        assert origin_of(self.checkpoint(tmp_path, None), Style.COT, "NumberLine") == Origin("checkpoint", "checkpoint")
        assert origin_of("owner/model", Style.COT, "NumberLine") == Origin("checkpoint model", "checkpoint")
        assert origin_of("random", Style.COT, "NumberLine") == Origin("random", "scripted")


def test_a_kept_policy_has_the_origin_of_its_run(tmp_path: Path) -> None:
    record = {"stage": "ppo", "settings": {"thought_prob_coef": 0.5, "style": "cot"}, "seeds": {"ppo": 3}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    for name in ("checkpoint", "checkpoints/best"):
        (tmp_path / name).mkdir(parents=True)
        assert origin_of(str(tmp_path / name), Style.COT, "NumberLine") == Origin("RL4VLM", "ppo", 0.5, 3)
