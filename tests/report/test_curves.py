"""Curves show the logs: means over seeds by epoch, from the untrained network on."""

import pytest

from simsiam_jax.report.curves import Curves, finetune_curves, knn_curves, loss_curves, spread_curves
from simsiam_jax.report.style import THEME


def test_curves_average_the_seeds_of_an_epoch_and_count_a_repeated_epoch_once():
    logs = {
        0: [{"epoch": 1, "loss": -0.2}, {"epoch": 2, "loss": -0.4}, {"epoch": 2, "loss": -0.6}],
        1: [{"epoch": 1, "loss": -0.4}, {"epoch": 2, "loss": float("nan")}],
    }
    figure = loss_curves([Curves("own", 2, logs)])
    line = figure.axes[0].lines[0]
    assert list(line.get_xdata()) == [1, 2]
    assert list(line.get_ydata()) == [pytest.approx(-0.3), pytest.approx(-0.6)]
    assert line.get_color() == THEME["arm-2"][0]


def test_a_legend_of_many_arms_leaves_the_curves_their_room():
    arms = [
        Curves(f"an arm with a long name, number {place}", place, {0: [{"epoch": 1, "z_spread": 0.5}]})
        for place in range(16)
    ]
    figure = spread_curves(arms)
    assert figure is not None
    figure.draw_without_rendering()
    plot, legend = figure.axes[0].get_window_extent(), figure.legends[0].get_window_extent()
    assert plot.height > 150
    assert legend.y1 <= plot.y0


def test_the_curves_of_attributes_are_those_of_their_number():
    logs = [Curves("own", 1, {0: [{"epoch": 1, "knn_macro_jaccard": 0.4, "validation_macro_jaccard": 0.6}]})]
    assert knn_curves(logs) is finetune_curves(logs) is None
    knn, finetune = knn_curves(logs, "macro_jaccard"), finetune_curves(logs, "macro_jaccard")
    assert [figure.axes[0].lines[0].get_ydata().tolist() for figure in (knn, finetune)] == [[40.0], [60.0]]
    assert knn.axes[0].get_title(loc="left") == "kNN macro Jaccard while pretraining, %"
