"""Demonstrations: what the generator writes, and what the reader accepts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rl4vlm.config.stages.sft_data import SFTDataSettings
from rl4vlm.core.files import sha256_of
from rl4vlm.core.types import Style
from rl4vlm.interaction.parse import parse_reply
from rl4vlm.sft import data
from rl4vlm.sft.data import Demonstration, Demonstrations, check_special_tokens, load_samples, run
from rl4vlm.tasks.registry import get_task
from tests.fakes import ClimbEnv, ClimbTask

CARD_GAMES = ("NumberLine", "EZPoints", "Points24", "Blackjack")


def make(out: Path, task: str = "NumberLine", style: Style = Style.COT, **settings: Any) -> list[Demonstration]:
    run(task=task, style=style, out=out, settings=SFTDataSettings(**{"samples": 20, **settings}))
    return load_samples(out)


class TestWriting:
    @pytest.mark.parametrize("style", Style)
    @pytest.mark.parametrize("task", CARD_GAMES)
    def test_what_is_written_is_read_back_and_plays(self, tmp_path: Path, task: str, style: Style) -> None:
        samples = make(tmp_path / "out", task, style)
        steps = list(islice(Demonstrations(task, style, SFTDataSettings()).steps(), 20))
        assert len(samples) == len({sample.id for sample in samples}) == 20
        for sample, step in zip(samples, steps, strict=True):
            assert (sample.prompt, sample.reply) == (step.request.prompt, step.reply.text)
            with Image.open(sample.image) as image:
                assert np.array_equal(np.asarray(image), step.request.image)
            assert parse_reply(sample.reply, step.request.view.actions).action == step.action
            expert = step.reply.expert_action
            assert expert is not None
            keys = list(expert.entries) if style is Style.COT else []
            assert [key for key in (*get_task(task).prompt.keys, "action") if f'"{key}": ' in sample.reply] == [
                *keys,
                "action",
            ]

    def test_the_file_is_llavas(self, tmp_path: Path) -> None:
        make(tmp_path / "out", samples=2)
        entry = json.loads((tmp_path / "out/data.json").read_text())[1]
        assert set(entry) == {"id", "image", "conversations"}
        human, model = entry["conversations"]
        assert (human["from"], model["from"]) == ("human", "gpt")
        assert human["value"].startswith("<image>\nYou ")
        assert (tmp_path / "out" / entry["image"]).suffix == ".png"

    def test_equal_images_are_stored_once(self, tmp_path: Path) -> None:
        samples = make(tmp_path / "out", samples=300)
        stored = list((tmp_path / "out/images").iterdir())
        assert len(stored) == len({sample.image for sample in samples}) <= 30

    def test_the_manifest_counts(self, tmp_path: Path) -> None:
        make(tmp_path / "out", samples=50, action_noise=0.2)
        manifest = json.loads((tmp_path / "out/manifest.json").read_text())
        replies = [sample.reply for sample in load_samples(tmp_path / "out")]
        played = Counter(parse_reply(reply, ("+", "-")).action for reply in replies)
        assert manifest["actions"] == {word: played[word] for word in ("+", "-")}
        assert manifest["samples"] == 50
        assert manifest["pictures"] == len(list((tmp_path / "out/images").iterdir()))
        assert manifest["sha256"] == sha256_of(tmp_path / "out/data.json")
        assert (manifest["task"], manifest["style"]) == ("NumberLine", "cot")
        assert manifest["settings"]["action_noise"] == 0.2
        assert json.loads((tmp_path / "out/run.json").read_text())["stage"] == "sft_data"

    def test_a_seed_decides_everything(self, tmp_path: Path) -> None:
        one, same, other = (make(tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
        files = [(tmp_path / name / "data.json").read_bytes() for name in "abc"]
        assert files[0] == files[1] != files[2]
        assert [s.reply for s in one] == [s.reply for s in same] != [s.reply for s in other]

    def test_a_failure_leaves_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="colour"):
            make(tmp_path / "out", env={"colour": "green"})
        assert list(tmp_path.iterdir()) == []

    def test_somebodys_files_are_not_erased(self, tmp_path: Path) -> None:
        make(tmp_path / "out", seed=1)
        make(tmp_path / "out", samples=3, seed=2)
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / "thesis.tex").write_text("years of work")
        with pytest.raises(ValueError, match=r"/home/thesis.tex would be replaced .* stage sft_data"):
            make(tmp_path / "home", env={"never": "looked at"})
        assert [path.name for path in (tmp_path / "home").iterdir()] == ["thesis.tex"]

    def test_prompt_texts_and_environment_options_are_passed_on(self, tmp_path: Path) -> None:
        assert make(tmp_path / "out", samples=1, prompt={"role": "Hello."})[0].prompt.startswith("Hello.\n")
        with pytest.raises((ValueError, TypeError), match="rules"):
            make(tmp_path / "other", env={"rules": "soft"})

    def test_every_points24_demonstration_has_a_solution(self) -> None:
        steps = list(islice(Demonstrations("Points24", Style.COT, SFTDataSettings()).steps(), 300))
        assert all(step.reply.expert_action and step.reply.expert_action.solvable for step in steps)
        ended = [step.episode for step in steps if step.episode]
        assert len(ended) > 20
        assert all(episode.success for episode in ended)

    def test_noise_changes_actions_and_not_thoughts(self, tmp_path: Path) -> None:
        pure = make(tmp_path / "pure", samples=400)
        noisy = make(tmp_path / "noisy", samples=400, action_noise=0.4)

        def rightness(samples: list[Demonstration]) -> float:
            said = [(json.loads(s.reply)["thoughts"], json.loads(s.reply)["action"]) for s in samples]
            return sum(("up" in thoughts) == (word == "+") for thoughts, word in said) / len(said)

        assert rightness(pure) == 1.0
        assert rightness(noisy) == pytest.approx(0.8, abs=0.06)

    def test_nothing_solvable_is_an_error_and_not_an_endless_search(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(data, "make_env", lambda name: ClimbEnv(solvable=False))
        monkeypatch.setattr(data, "get_task", lambda name: ClimbTask())
        monkeypatch.setattr(data, "MAX_STEPS_WITHOUT_SAMPLE", 50)
        with pytest.raises(ValueError, match="'Climb' had no solvable state in 50 steps"):
            next(Demonstrations("Climb", Style.COT, SFTDataSettings()).steps())

    @pytest.mark.parametrize("settings", [{"samples": 0}, {"action_noise": 1.5}])
    def test_settings_that_make_no_sense_are_named(self, settings: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=next(iter(settings))):
            SFTDataSettings(**settings)

    def test_needs_no_torch(self) -> None:
        code = "import sys, rl4vlm.sft.data; sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def said(reply: str) -> dict[str, Any]:
    return {"conversations": [{"from": "human", "value": "<image>x"}, {"from": "gpt", "value": reply}]}


@pytest.fixture
def published(tmp_path: Path) -> Callable[..., Path]:
    """Write a file like the published ones; keyword arguments replace entries of its second sample."""

    def write(**changes: Any) -> Path:
        Image.new("RGB", (4, 4)).save(tmp_path / "p.jpg")
        Image.new("RGB", (4, 4)).save(tmp_path / "program.png", format="EPS")
        (tmp_path / "broken.png").write_bytes(b"not a picture")
        (tmp_path / "pointer.png").write_bytes(data.LFS_POINTER + b"v1\noid sha256:0\nsize 5\n")
        for name in ("cut.png", "cut.jpg"):
            image = Image.effect_noise((64, 64), 50)
            image.save(tmp_path / name)
            (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-900])
        turns = [{"from": "human", "value": "<image>\nWhat now?\n"}, {"from": "gpt", "value": "go"}]
        entries: list[Any] = [{"id": f"s{i}", "image": "p.jpg", "conversations": turns} for i in range(2)]
        entries[1] = changes["entry"] if "entry" in changes else {**entries[1], **changes}
        (tmp_path / "llava.json").write_text(json.dumps(entries))
        return tmp_path / "llava.json"

    return write


class TestPerception:
    def test_takes_a_published_file_or_a_folder_with_one(self, published: Callable[..., Path]) -> None:
        file = published()
        expected = Demonstration("s0", file.parent / "p.jpg", "What now?", "go")
        assert load_samples(file)[0] == load_samples(file.parent)[0] == expected

    def test_the_image_may_come_after_the_text(self, published: Callable[..., Path]) -> None:
        turns = [{"from": "human", "value": "What now?\n<image>"}, {"from": "gpt", "value": "go"}]
        assert load_samples(published(conversations=turns))[1].prompt == "What now?"

    def test_an_id_may_be_missing_or_a_number(self, published: Callable[..., Path]) -> None:
        assert load_samples(published(id=17))[1].id == "17"

    @pytest.mark.parametrize(
        ("changes", "what"),
        [
            ({"entry": "text"}, "'number 1': not an object"),
            ({"image": None}, "'s1': no `image` path"),
            ({"image": "broken.png"}, r"'s1': image .*broken\.png cannot be read"),
            ({"image": "cut.png"}, r"'s1': image .*cut\.png cannot be read"),
            ({"image": "cut.jpg"}, r"'s1': image .*cut\.jpg cannot be read: .*truncated"),
            ({"image": "program.png"}, r"'s1': image .*program\.png cannot be read: cannot identify"),
            ({"image": "pointer.png"}, r"'s1': image .*pointer\.png is a pointer of Git LFS .*git lfs pull"),
            ({"image": "."}, r"'s1': image .* does not exist"),
            ({"image": "p\0.jpg"}, r"'s1': image .* cannot be read"),
            (said("<image>"), "'s1': the reply holds <image>"),
            (said("go \ud83d"), "'s1': its text holds .*, half of a surrogate pair"),
            (said(" \n"), "no text"),
            ({"image": "q.png"}, r"'s1': image .*q\.png does not exist"),
            ({"conversations": {}}, "'s1': `conversations` is not a list"),
            ({"conversations": ["hello"]}, "'s1': `conversations` is not a list"),
            (
                {"conversations": [{"from": "human", "value": "<image>x"}]},
                "not one turn from `human` and one from `gpt`",
            ),
            ({"conversations": [{"from": "human", "value": "<image>x"}, {"from": "gpt"}]}, "no text"),
            (
                {"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}]},
                "has 0 <image> tokens",
            ),
            ({"conversations": [{"from": "human", "value": "<image><image>"}, {"from": "gpt", "value": "y"}]}, "has 2"),
        ],
    )
    def test_what_is_wrong_is_named_with_file_and_sample(
        self, published: Callable[..., Path], changes: dict[str, Any], what: str
    ) -> None:
        with pytest.raises(ValueError, match=rf"llava\.json, sample .*{what}"):
            load_samples(published(**changes))

    def test_a_token_of_the_model_in_a_text_is_named(self, published: Callable[..., Path]) -> None:
        file = published(**said("go</s> on"))
        with pytest.raises(ValueError, match=r"llava\.json, sample 's1': the reply holds '</s>'"):
            check_special_tokens(file, load_samples(file), ["<s>", "</s>"])
        check_special_tokens(file, load_samples(file), ["<s>"])

    @pytest.mark.parametrize(
        ("text", "what"),
        [
            ("{", "is not JSON"),
            ("[" * 100_000, "is not JSON"),
            ("[" + "1" * 5000, "is not JSON"),
            ("[NaN]", "is not JSON"),
            ("\udcff", "is not UTF-8"),
            (data.LFS_POINTER.decode(), "is a pointer of Git LFS"),
            ("{}", "not a list"),
            ("[]", "not a list"),
        ],
    )
    def test_a_file_that_holds_no_samples_is_named(self, tmp_path: Path, text: str, what: str) -> None:
        (tmp_path / "bad.json").write_text(text, errors="surrogateescape")
        with pytest.raises(ValueError, match=rf"bad\.json.*{what}"):
            load_samples(tmp_path / "bad.json")

    def test_no_file_or_too_many_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"no demonstrations at .*nowhere"):
            load_samples(tmp_path / "nowhere")
        with pytest.raises(ValueError, match="0 other JSON files"):
            load_samples(tmp_path)
        for name in ("a.json", "b.json"):
            (tmp_path / name).write_text("[]")
        with pytest.raises(ValueError, match="2 other JSON files"):
            load_samples(tmp_path)
