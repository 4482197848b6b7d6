"""Figures: what they show, that it follows from their inputs alone, and that style changes looks only."""

import json
from dataclasses import replace
from pkgutil import resolve_name
from typing import Any

import pandas as pd
import pytest
from matplotlib.colors import to_hex

from rl4vlm.config.overrides import parse_settings
from rl4vlm.figures.draw import draw
from rl4vlm.figures.perception import STAGES, draw_fields
from rl4vlm.figures.style import FigureStyle, drawing
from rl4vlm.results.collection import Results
from rl4vlm.results.names import FIGURES
from rl4vlm.results.read import CurvePoint
from tests.results.synthetic import Synthetic, add_evaluation, add_training_run, make_results, write_lines

STYLE = FigureStyle(dpi=60)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_results(tmp_path_factory.mktemp("results"))


def make(name, made, style=STYLE, scale="embedded"):
    """The matplotlib figure of a name."""
    with drawing(style):
        return resolve_name(FIGURES[name])(Results.load(**made.inputs), scale, style)


def axes_of(figure):
    return [axis for part in figure.subfigs for axis in part.axes]


def legend_of(figure):
    return [text.get_text() for part in figure.subfigs for legend in part.legends for text in legend.get_texts()]


def note_of(figure):
    return " ".join(text.get_text() for text in figure.subfigs[1].texts).replace("\n", " ")


def lines_of(axis):
    return {line.get_label(): line for line in axis.lines}


def test_training_curves_show_every_task_with_its_lines(made):
    figure = make("training_curves", made)
    axes = axes_of(figure)
    assert [axis.get_title() for axis in axes] == ["NumberLine", "EZPoints", "Blackjack", "Points24 (extra)"]
    assert set(legend_of(figure)) == {
        "RL4VLM, training",
        "RL4VLM, validation",
        "RL4VLM, held out",
        "LLaVA-sft (start), held out",
        "RL4VLM, published",
        "LLaVA-sft, published",
        "GPT4-V, published",
        "Gemini, published",
        "random play",
        "stand on 17",
        "ceiling (solver)",
    }
    lines = lines_of(axes[2])
    assert lines["stand on 17"].get_ydata()[0] == 40.77
    assert lines["GPT4-V, published"].get_ydata()[0] == 25.5
    assert lines["random play"].get_ydata()[0] == 28.06
    assert lines["ceiling (solver)"].get_ydata()[0] == 42.95
    assert "Scale: embedded" in note_of(figure)


def test_the_curve_is_the_rolling_success_in_percent(made):
    run = next(folder for folder in made.training_runs if folder.name == "NumberLine-cot-lambda0.5-seed1")
    points = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][1:]
    curve = lines_of(axes_of(make("training_curves", made))[0])["RL4VLM, training"]
    assert list(curve.get_xdata()) == [point["env_steps"] for point in points]
    assert list(curve.get_ydata()) == pytest.approx([100 * point["success_rate"] for point in points])


def test_random_play_is_measured_where_it_was_not_enumerated(made):
    panel = axes_of(make("training_curves", made))[3]
    assert lines_of(panel)["random play"].get_ydata()[0] == 0


def test_a_method_is_drawn_only_if_it_was_run(tmp_path):
    made = make_results(tmp_path, tasks=["NumberLine"], styles=["cot"], episodes=20)
    assert not [label for label in legend_of(make("training_curves", made)) if "CNN+RL" in label]
    made = make_results(tmp_path / "with", tasks=["NumberLine"], styles=["cot"], episodes=20, cnn=True)
    assert {"CNN+RL, training", "CNN+RL, held out", "CNN+RL, published"} <= set(
        legend_of(make("training_curves", made))
    )


def test_every_panel_is_as_long_as_its_longest_run(tmp_path):
    made = make_results(tmp_path, styles=["cot"], episodes=20, cnn=True)
    for axis in axes_of(make("training_curves", made)):
        lines = lines_of(axis)
        ends = {name: max(lines[f"{name}, training"].get_xdata()) for name in ("RL4VLM", "CNN+RL")}
        assert ends == {"RL4VLM": 16 * 512, "CNN+RL": 24 * 512}
        assert axis.get_xlim()[1] > ends["CNN+RL"]
        assert "CNN+RL, published" in lines or axis.get_title() == "Points24 (extra)"


def test_several_seeds_are_drawn_as_mean_and_interval(tmp_path):
    made = make_results(tmp_path, tasks=["EZPoints"], styles=["cot"], seeds=(1, 2), episodes=20)
    figure = make("training_curves", made)
    runs = Results.load(**made.inputs).main_runs("RL4VLM")
    mean = [(a.success_rate + b.success_rate) / 2 for a, b in zip(runs[0].curve, runs[1].curve, strict=True)]
    assert list(lines_of(axes_of(figure)[0])["RL4VLM, training"].get_ydata()) == pytest.approx(mean)
    assert "mean over 2 seeds" in note_of(figure)
    assert "one seed" in note_of(make("training_curves", make_results(tmp_path / "one", tasks=["EZPoints"])))


def test_the_note_is_about_the_drawn_runs_and_their_games(made):
    windows = {"RL4VLM": 100, "RL4VLM-noCoT": 74}
    found = Results.load(**made.inputs)
    runs = [
        replace(run, curve=tuple(CurvePoint(step, 50.0, min(40 * step, windows[run.method])) for step in (1, 2, 3)))
        for run in found.training_runs
    ]
    played = [run.model_copy(update={"games": "seen"}) if run.task == "Blackjack" else run for run in found.evaluations]
    results = replace(found, training_runs=tuple(runs), evaluations=tuple(played))
    with drawing(STYLE):
        training = note_of(resolve_name(FIGURES["training_curves"])(results, "embedded", STYLE))
        cot = note_of(resolve_name(FIGURES["cot_ablation"])(results, "embedded", STYLE))
    assert "the last training episodes in the order in which they began (up to 100 of them, fewer early on;" in training
    assert "(up to 74 to 100 of them, depending on the run, fewer early on;" in cot
    assert "held-out episodes, with 95 % intervals; Blackjack: seen games. Dashed" in training


def test_published_curves_are_left_out_unless_asked_for(made):
    assert not [label for label in legend_of(make("training_curves", made)) if "curve" in label]
    figure = make("training_curves", made, FigureStyle(dpi=60, show_published_curves=True))
    assert "RL4VLM, published curve" in legend_of(figure)
    assert "read by eye" in note_of(figure)
    lines = lines_of(axes_of(figure)[0])
    assert max(lines["RL4VLM, published curve"].get_xdata()) == max(lines["RL4VLM, training"].get_xdata())


def test_cot_ablation_sets_both_styles_side_by_side(made):
    lines = lines_of(axes_of(make("cot_ablation", made))[1])
    assert {"RL4VLM, training", "RL4VLM-noCoT, training"} <= set(lines)
    assert lines["RL4VLM-noCoT, published"].get_ydata()[0] == 29.9


@pytest.fixture
def household(tmp_path):
    """Makes the results of ALFWorld on games of `source`, learning curves of both styles included."""

    def make_household(source):
        made = make_results(tmp_path, tasks=["NumberLine"], lambdas=(0.5,), episodes=20)
        for style, suffix in (("cot", ""), ("nocot", "-noCoT")):
            run = f"ALFWorld-{style}-lambda0.2-seed1"
            add_training_run(made, run, 0.1, 0.4, 1)
            for name, method, kind in ((f"sft-{style}", "LLaVA-sft", "sft"), (f"ppo-{run}", "RL4VLM", "ppo")):
                extra: dict[str, Any] = {
                    "overall": "alfworld_avg",
                    "data_sources": [source],
                    "games": "seen",
                    "style": style,
                }
                extra |= {"lambda": 0.2, "logprob_thoughts": -9.0, "logprob_action": -0.3}
                add_evaluation(
                    made, f"{name}-ALFWorld", "ALFWorld", f"{method}{suffix}", kind, 0.4, 20, seed=1, **extra
                )
        return made

    return make_household


@pytest.mark.parametrize("name", ["training_curves", "cot_ablation"])
@pytest.mark.parametrize(
    ("source", "games", "is_the_papers"),
    [
        ("generated", "generated games", False),
        ("official, drawn pictures", "official games, drawn pictures", False),
        ("official", "official games", True),
    ],
)
def test_published_results_are_drawn_beside_the_benchmark_alone(household, name, source, games, is_the_papers):
    style = FigureStyle(dpi=60, show_published_curves=True)
    cards, panel = axes_of(make(name, household(source), style))
    assert (cards.get_title(), " ".join(panel.get_title().split())) == ("NumberLine", f"ALFWorld ({games})")
    assert lines_of(cards)["RL4VLM, published"].get_ydata()[0] == 89.4
    found = {label: line.get_ydata()[0] for label, line in lines_of(panel).items() if "published" in label}
    assert bool(found) == is_the_papers
    if is_the_papers:
        assert found["RL4VLM, published"] == 21.7
        assert found["RL4VLM, published curve"] == 17.7


@pytest.mark.parametrize("name", ["perception", "logprob_balance", "lambda_ablation"])
def test_every_other_figure_says_which_games_too(household, name):
    made = household("official, drawn pictures")
    run = "ALFWorld-cot-lambda0.5-seed1"
    add_training_run(made, run, 0.1, 0.4, 1)
    made.thought_prob_coef["ALFWorld"] = 0.5
    extra: dict[str, Any] = {
        "overall": "alfworld_avg",
        "data_sources": ["official, drawn pictures"],
        "games": "seen",
        "lambda": 0.5,
    }
    add_evaluation(made, f"ppo-{run}", "ALFWorld", "RL4VLM", "ppo", 0.4, 20, seed=1, reads=True, **extra)
    figure = make(name, made)
    axes = axes_of(figure)
    named = [axis.get_title() for axis in axes] + [label.get_text() for label in axes[0].get_yticklabels()]
    named = [text for text in named if "ALFWorld" in text]
    assert named
    assert all(" ".join(text.split()).endswith(" (official games, drawn pictures)") for text in named)
    figure.draw_without_rendering()
    titles = [axis.title.get_window_extent() for axis in axes]
    assert not [(a, b) for k, a in enumerate(titles) for b in titles[:k] if a.overlaps(b)]
    assert all(figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1 for box in titles)


def test_lambda_ablation_draws_every_lambda_and_no_other_task(made):
    figure = make("lambda_ablation", made)
    curves, rates = axes_of(figure)
    assert [axis.get_title() for axis in (curves, rates)] == ["NumberLine", "NumberLine, held out"]
    assert [label for label in lines_of(curves) if "λ" in label] == [f"λ = {w}" for w in (0.1, 0.3, 0.5, 0.7, 0.9)]
    assert list(lines_of(rates)["published peak (by eye)"].get_ydata()) == [25, 87, 86, 34, 34]


def test_logprob_balance_draws_magnitudes(made):
    figure = make("logprob_balance", made)
    axis = axes_of(figure)[0]
    labels = [text.get_text() for text in axis.get_yticklabels()]
    assert labels[:2] == ["NumberLine, after SFT", "NumberLine, after PPO"]
    places: dict[str, list[tuple[Any, Any]]] = {"thoughts": [], "action": []}
    for line in axis.lines:
        if line.get_label() in places:
            places[line.get_label()].append((line.get_ydata()[0], line.get_xdata()[0]))
    assert places["thoughts"][:2] == [(0, 26.0), (1, 12.0)]
    assert places["action"][:2] == [(0, 0.21), (1, 0.013)]
    assert legend_of(figure) == ["thoughts", "action"]


@pytest.mark.parametrize(("thoughts", "action"), [(-1.8, -1.9), (-1.9, -1.8), (-2.0, -2.0), (-30.0, -0.02)])
def test_labels_of_near_values_do_not_meet(tmp_path, thoughts, action):
    made = Synthetic(tmp_path)
    for task, method in (("EZPoints", "LLaVA-sft"), ("EZPoints", "RL4VLM"), ("Blackjack", "RL4VLM")):
        near = {"logprob_thoughts": thoughts, "logprob_action": action} if method == "LLaVA-sft" else {}
        extra = {"logprob_thoughts": -40.0, "logprob_action": -0.01, "lambda": 0.5} | near
        add_evaluation(made, f"{method}-{task}", task, method, "ppo", 0.5, 10, seed=1, **extra)
    figure = make("logprob_balance", made)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes_of(figure)[0].texts]
    assert len(boxes) == 6
    assert not [(a, b) for k, a in enumerate(boxes) for b in boxes[:k] if a.overlaps(b)]


def test_an_action_that_is_certain_still_has_a_place_on_the_logarithmic_axis(tmp_path):
    made = Synthetic(tmp_path)
    extra: dict[str, Any] = {"logprob_thoughts": -3.0, "logprob_action": 0.0, "lambda": 0.5}
    add_evaluation(made, "ppo-EZPoints-cot-lambda0.5-seed1", "EZPoints", "RL4VLM", "ppo", 0.5, 10, seed=1, **extra)
    draw("logprob_balance", **made.inputs, out=tmp_path / "figure", scale="embedded", style=STYLE)
    assert (tmp_path / "figure.png").stat().st_size > 0


def test_numbers_above_narrow_bars_do_not_meet(made):
    """ALFWorld has three fields."""
    fields = ["place", "in hand", "state"]
    rows = [(method, field, 100.0) for method in STAGES for field in fields]
    figure = make("perception", made)
    axis = axes_of(figure)[0]
    axis.clear()
    draw_fields(axis, pd.DataFrame(rows, columns=["method", "field", "accuracy"]), FigureStyle())
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axis.texts]
    assert len(boxes) == 9
    assert not [(a, b) for k, a in enumerate(boxes) for b in boxes[:k] if a.overlaps(b)]


def test_perception_has_a_bar_for_every_stage_and_field(made):
    figure = make("perception", made)
    assert [axis.get_title() for axis in axes_of(figure)] == ["NumberLine", "EZPoints", "Points24", "Blackjack"]
    heights = sorted(patch.get_height() for patch in axes_of(figure)[0].patches)
    assert heights == pytest.approx([90, 90, 90, 90, 95, 97])
    assert legend_of(figure) == ["before SFT", "after SFT", "after PPO"]


@pytest.mark.parametrize("name", FIGURES)
def test_a_config_without_such_runs_still_gets_its_figure(name, tmp_path):
    draw(name, evaluations=[], training_runs=[], base_perceptions={}, out=tmp_path / name, scale="smoke", style=STYLE)
    assert (tmp_path / f"{name}.png").stat().st_size > 0


@pytest.mark.parametrize("name", FIGURES)
def test_runs_too_short_to_finish_an_episode_are_drawn(name, tmp_path):
    made = make_results(tmp_path, tasks=["NumberLine"], lambdas=(0.3, 0.5), episodes=4)
    for run in made.training_runs:
        write_lines(run / "metrics.jsonl", [{"env_steps": 16, "success_rate": None, "window": 0}])
    draw(name, **made.inputs, out=tmp_path / name, scale="smoke", style=STYLE)
    assert (tmp_path / f"{name}.png").stat().st_size > 0


def test_legends_fit_the_figure(made, tmp_path):
    narrow = make_results(tmp_path, tasks=["NumberLine"], lambdas=(0.3, 0.5), episodes=20)
    for name, results in [(name, results) for name in FIGURES for results in (made, narrow)]:
        figure = make(name, results)
        figure.draw_without_rendering()
        for part in figure.subfigs:
            for legend in part.legends:
                box = legend.get_window_extent()
                assert box.x0 >= 0, name
                assert box.x1 <= figure.bbox.x1, name


def test_a_colour_is_a_setting_by_method(made):
    style = parse_settings(FigureStyle, ["colours.RL4VLM=#123456", "dpi=60"])
    lines = lines_of(axes_of(make("training_curves", made, style))[0])
    assert to_hex(lines["RL4VLM, training"].get_color()) == "#123456"
    assert to_hex(lines["LLaVA-sft, published"].get_color()) == "#56b4e9"


def test_unknown_figure_lists_the_known(tmp_path):
    with pytest.raises(ValueError, match=r"'training_curve'.*training_curves"):
        draw("training_curve", evaluations=[], training_runs=[], base_perceptions={}, out=tmp_path / "x", scale="smoke")


def test_broken_input_is_named_and_leaves_the_old_figure(tmp_path):
    made = make_results(tmp_path, tasks=["EZPoints"], styles=["cot"], episodes=10)
    draw("training_curves", **made.inputs, out=tmp_path / "figure", scale="embedded", style=STYLE)
    before = (tmp_path / "figure.pdf").read_bytes()
    (made.training_runs[0] / "metrics.jsonl").write_text("{broken\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 1"):
        draw("training_curves", **made.inputs, out=tmp_path / "figure", scale="embedded", style=STYLE)
    assert (tmp_path / "figure.pdf").read_bytes() == before
