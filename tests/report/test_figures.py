"""Figures of what came out follow the page's theme, and an arm looks the same in all of them."""

import dataclasses
import re

from simsiam_jax.report.curves import Curves, finetune_curves, knn_curves, loss_curves, spread_curves
from simsiam_jax.report.figures import accuracy_points, difference_intervals
from simsiam_jax.report.style import THEME, themed_svg
from simsiam_jax.report.summary import summarise
from tests.support.made_up import make_experiment, make_scores


def test_an_arm_keeps_its_colour_in_every_figure():
    results = make_scores("none", [0.70, 0.72, 0.77]) + make_scores("own", [0.73, 0.76, 0.79])
    table = summarise(results, make_experiment())
    logs = [Curves("own", 1, {0: [{"epoch": 1, "loss": 0.1, "z_spread": 1, "knn_top1": 0.5, "validation_top1": 0.5}]})]
    drawn = [
        accuracy_points(table),
        difference_intervals(table),
        loss_curves(logs),
        knn_curves(logs),
        spread_curves(logs),
        finetune_curves(logs),
    ]
    for figure in drawn:
        assert THEME["arm-1"][0] in {line.get_color() for line in figure.axes[0].lines}


def test_figures_without_anything_to_draw_are_left_out():
    empty = [Curves("none", 0, {})]
    table = summarise([], make_experiment())
    assert loss_curves(empty) is knn_curves(empty) is finetune_curves(empty) is None
    assert spread_curves(empty) is accuracy_points(table) is difference_intervals(table) is None


def test_a_drawing_follows_the_pages_theme():
    results = make_scores("none", [0.70, 0.72, 0.77]) + make_scores("own", [0.73, 0.76, 0.79])
    drawing = themed_svg(accuracy_points(summarise(results, make_experiment())), "accuracy")
    colours = set(re.findall(r"#[0-9a-fA-F]{6}\b", drawing))
    assert colours == set()
    assert {"ink", "muted", "arm-0", "arm-1"} <= set(re.findall(r"var\(--([\w-]+)\)", drawing))
    ids = set(re.findall(r'\bid="([^"]+)"', drawing))
    assert all(name.startswith("accuracy-") for name in ids)
    assert set(re.findall(r"(?:href=\"|url\()#([^\")]+)", drawing)) <= ids


def test_an_arm_looks_the_same_when_another_arm_is_left_out():
    names = ("none", "noise", "own")
    results = [
        *make_scores("none", [0.70, 0.72, 0.77]),
        *make_scores("noise", [0.71, 0.70, 0.72]),
        *make_scores("own", [0.73, 0.76, 0.79]),
    ]
    whole = make_experiment(names)
    fewer = dataclasses.replace(whole, arms=tuple(arm for arm in whole.arms if arm.name != "noise"))
    for draw in (accuracy_points, difference_intervals):
        looks = []
        for experiment in (whole, fewer):
            (axes,) = draw(summarise(results, experiment)).axes
            markers = [line for line in axes.lines if line.get_marker() != "None"]
            looks.append((markers[-1].get_color(), markers[-1].get_marker()))
        assert looks == [(THEME["arm-2"][0], "D")] * 2
