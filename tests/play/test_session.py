"""An episode on the terminal, played by a policy or by a person."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageSequence

from rl4vlm.cli import main
from rl4vlm.config.stages.evaluation import EvaluationSettings, PlaySettings
from rl4vlm.core.types import Episode, PlayStopped, Reply, Request, Style
from rl4vlm.evaluation.run import run
from rl4vlm.play.session import play
from rl4vlm.play.terminal import Screen
from rl4vlm.tasks.number_line import NumberLine
from tests.fakes import FakePolicy


def played(policy: Any, typed: list[str] | None = None, **changes: Any) -> tuple[Episode | None, str]:
    """The episode, and everything that was written. `typed` holds a person's answers."""
    answers = iter(typed or [])
    out = io.StringIO()

    def ask(question: str) -> str:
        out.write(question)
        try:
            return next(answers)
        except StopIteration as end:
            raise EOFError from end

    asked = {"task": "NumberLine", "style": Style.COT, "seed": 1_000_000_000, "settings": PlaySettings()}
    episode = play(policy=policy, out=out, ask=ask, **{**asked, **changes})
    return episode, out.getvalue()


def test_the_solver_wins_and_everything_is_shown() -> None:
    episode, shown = played("solver")
    assert episode is not None
    assert episode.success
    assert shown.count("── Step ") == episode.length
    assert shown.count("You play a game on a number line") == 1
    assert "[image: current number" in shown
    assert 'Reply: {"current number": ' in shown
    assert f"Won after {episode.length} steps; return +1." in shown


def test_names_the_games_of_tasks_whose_games_are_data(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Played on" not in played("solver")[1]
    monkeypatch.setattr(NumberLine, "data_source", lambda _, info: "official, drawn pictures" if info else "none")
    assert played("solver")[1].startswith("Played on official games, drawn pictures.\n")


def test_it_is_the_evaluations_episode_of_that_seed(tmp_path: Path) -> None:
    summary = run(
        policy="random",
        task="Blackjack",
        style=Style.COT,
        out=tmp_path,
        settings=EvaluationSettings(episodes=8),
    )
    won = [played("random", task="Blackjack", seed=seed)[0].success for seed in summary["seeds"]]  # type: ignore[union-attr]
    assert sum(won) == summary["successes"]


def test_a_fallback_is_shown() -> None:
    _, shown = played(FakePolicy("I cannot say."))
    assert re.search(r"Action: [+-] \(drawn at random: no action key\)   Reward: ", shown)
    assert re.search(r"after \d+ steps, \d+ of them fallbacks", shown)


def test_a_models_text_cannot_command_the_terminal() -> None:
    _, shown = played(FakePolicy('\x1b[2J\x1b]0;mine\x07 caf\u00e9 \u202e\u009b31m\r\n{"action": "+"}'))
    assert not set(shown) & set("\x1b\x07\r\u202e\u009b")
    assert "\\x1b[2J" in shown
    assert "café" in shown


def test_a_person_plays_by_hand() -> None:
    episode, shown = played("human", ["jump", "", "STAND"], task="Blackjack", seed=1)
    assert episode is not None
    assert (episode.length, episode.fallbacks) == (1, 0)
    assert "Your action (stand, hit; q quits): " in shown
    assert "'jump' is no legal action. Your action: " in shown
    assert "'' is no legal action." in shown


def test_a_unique_beginning_of_an_action_is_enough() -> None:
    episode, _ = played("human", ["s"], task="Blackjack", seed=1)
    assert episode is not None
    _, shown = played("human", ["1", "10", "q"], task="EZPoints")
    assert "Action: 1 " in shown
    assert "Action: 10 " in shown


@pytest.mark.parametrize("typed", [["q"], ["+", "Q"], ["+"], []])
def test_a_person_may_stop(typed: list[str]) -> None:
    episode, shown = played("human", typed, task="Points24")
    assert episode is None
    assert shown.endswith("Stopped.\n")


def test_without_an_input_nobody_plays(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    # As Python starts if the shell closed the standard input: `rl4vlm play NumberLine <&-`.
    monkeypatch.setattr("sys.stdin", None)
    assert main(["play", "NumberLine", "--seed", "1"]) == 0
    assert capsys.readouterr().out.endswith("Stopped.\n")


def test_on_a_terminal_the_image_is_drawn() -> None:
    _, shown = played("solver", screen=Screen(80, 24))
    assert "[image" not in shown
    assert "▀" in shown


def test_the_gif_shows_every_step_and_the_end(tmp_path: Path) -> None:
    file = tmp_path / "gifs" / "episode.gif"
    episode, shown = played("solver", task="EZPoints", gif=file)
    assert episode is not None
    assert f"Saved to {file}." in shown
    with Image.open(file) as animation:
        frames = [frame.convert("RGB").tobytes() for frame in ImageSequence.Iterator(animation)]
        assert animation.info["loop"] == 0
    assert len(frames) == episode.length + 1
    assert len(set(frames)) == len(frames)


def test_a_stopped_episode_is_saved_too(tmp_path: Path) -> None:
    played("human", ["+", "q"], task="Points24", gif=tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as animation:
        assert sum(1 for _ in ImageSequence.Iterator(animation)) == 2


def test_what_is_no_gif_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes.gif").write_text("mine")
    os.mkfifo(tmp_path / "pipe.gif")
    (tmp_path / "folder.gif").mkdir()
    for name in ("notes.gif", "pipe.gif", "folder.gif"):
        with pytest.raises(ValueError, match="exists and is not a GIF"):
            played("solver", gif=tmp_path / name)
    assert (tmp_path / "notes.gif").read_text() == "mine"
    with pytest.raises(ValueError, match=r"ends in \.gif"):
        played("solver", gif=tmp_path / "episode.png")


class TestCommand:
    def test_plays(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        words = [
            "play",
            "EZPoints",
            "--policy",
            "solver",
            "--seed",
            "4",
            "--style",
            "nocot",
            "--set",
            "env.rules=upstream",
        ]
        assert main([*words, "--gif", str(tmp_path / "a.gif")]) == 0
        shown = capsys.readouterr().out
        assert shown.startswith("EZPoints, played by solver, seed 4\n")
        assert 'Reply: {"action": ' in shown
        assert (tmp_path / "a.gif").is_file()

    @pytest.mark.parametrize(
        ("words", "named"),
        [
            (["NoGame"], "unknown task 'NoGame'"),
            (["EZPoints", "--policy", "nobody"], "no policy 'nobody'"),
            (["EZPoints", "--set", "temprature=1"], "unknown setting 'temprature'; did you mean temperature?"),
            (["EZPoints", "--set", "env.ruls=strict"], "no environment option 'ruls'; did you mean rules"),
        ],
    )
    def test_names_what_is_wrong(self, capsys: pytest.CaptureFixture[str], words: list[str], named: str) -> None:
        assert main(["play", *words]) == 2
        assert named in capsys.readouterr().err

    def test_tasks_come_with_their_references(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["tasks"]) == 0
        lines = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
        assert lines["NumberLine"] == ["gym_cards/NumberLine-v0", "28.3", "%", "100", "%"]
        assert lines["Points24"] == ["gym_cards/Points24-v0", "-", "73.09", "%"]


class OneAnswer:
    """Answers once, then stops play."""

    def __init__(self) -> None:
        self.asked = 0

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        self.asked += 1
        if self.asked > 1:
            raise PlayStopped("the spending cap of 1.00 dollars is reached")
        return [Reply('{"action": "+"}') for _ in requests]


def test_a_policy_that_stops_play_says_why() -> None:
    episode, shown = played(OneAnswer(), task="Points24")
    assert episode is None
    assert shown.endswith("the spending cap of 1.00 dollars is reached\nStopped.\n")


def test_a_policy_that_holds_something_open_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []

    class Connected(FakePolicy):
        def close(self) -> None:
            closed.append(True)

    given: dict[str, Any] = {}

    def make_policy(name: str, style: Style, **options: Any) -> Connected:
        given.update(options, name=name)
        return Connected('{"action": "stand"}')

    monkeypatch.setattr("rl4vlm.play.session.make_policy", make_policy)
    episode, _ = played("api:some", task="Blackjack", settings=PlaySettings(api={"model": "m"}))
    assert episode is not None
    assert closed == [True]
    assert (given["name"], given["api"], given["temperature"]) == ("api:some", {"model": "m"}, 0.2)


def test_the_config_says_how_a_model_is_reached(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The config has an entry for the model, so the only thing missing is the key."""
    overlay = tmp_path / "mine.yaml"
    overlay.write_text(
        "results_dir: results\nevaluation: {}\n"
        "api_models: {mine: {base_url: 'http://127.0.0.1:9/v1', model: m, key_env: NO_SUCH_KEY_HERE}}\n"
    )
    assert main(["play", "NumberLine", "--policy", "api:mine", "--config", str(overlay)]) == 2
    assert "NO_SUCH_KEY_HERE" in capsys.readouterr().err
