"""Curves show the logs: means over seeds by epoch, from the untrained network on."""

import dataclasses

import numpy as np
import pytest

from simsiam_jax.report.curves import (
    Curves,
    curve_pictures,
    finetune_curves,
    knn_curves,
    loss_curves,
    read_curves,
    spread_curves,
)
from simsiam_jax.report.style import THEME
from tests.support.made_up import make_arm, make_experiment, make_result, write_log, write_results


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


def test_a_measurement_after_training_is_no_lone_dot_beside_the_untrained_network():
    # The writer measures kNN and the held-out images before the first epoch, where there is no training loss.
    untrained = {"epoch": 0, "knn_top1": 0.3, "heldout_loss": -0.1, "heldout_z_spread": 0.7}
    trained = {
        "epoch": 3,
        "loss": -0.8,
        "z_spread": 0.9,
        "knn_top1": 0.5,
        "heldout_loss": -0.7,
        "heldout_z_spread": 0.8,
    }
    logs = [Curves("own", 1, {0: [untrained, trained]})]
    for figure, wanted in (
        (knn_curves(logs), [([0, 3], [30, 50])]),
        (loss_curves(logs), [([3], [-0.8]), ([0, 3], [-0.1, -0.7])]),
        (spread_curves(logs), [([3], [0.9]), ([0, 3], [0.7, 0.8])]),
    ):
        # The marker at the end of a solid line is a line of its own.
        drawn = [line for line in figure.axes[0].lines if line.get_marker() == "None"][: len(wanted)]
        for line, (epochs, values) in zip(drawn, wanted, strict=True):
            np.testing.assert_array_equal(line.get_xdata(), epochs)
            np.testing.assert_allclose(line.get_ydata(), values)
    # A dashed line is explained.
    assert [text.get_text() for text in spread_curves(logs).axes[0].get_legend().get_texts()] == [
        "training",
        "held-out images",
    ]


def test_the_caption_says_what_epoch_0_is_where_it_is_shown():
    experiment = make_experiment(("own",))
    for first, said in ((0, True), (1, False)):
        logs = [Curves("own", 0, {0: [{"epoch": first, "knn_top1": 0.3}, {"epoch": 2, "knn_top1": 0.5}]})]
        (picture,) = curve_pictures(logs, [], experiment)
        assert ("Epoch 0 is the untrained network." in picture.caption) == said


def test_logs_are_read_with_their_arms_position_and_bad_lines_are_noted(tmp_path):
    experiment = dataclasses.replace(
        make_experiment(("own",)), arms=(dataclasses.replace(make_arm("own"), position=4),)
    )
    write_log(tmp_path / "own" / "seed-0" / "pretrain", [{"epoch": 0, "knn_top1": 0.3}])
    (curves,), notes = read_curves(tmp_path, experiment, "pretrain")
    assert (curves.position, curves.seeds) == (4, {0: [{"epoch": 0, "knn_top1": 0.3}]})
    assert notes == []
    with open(tmp_path / "own" / "seed-0" / "pretrain" / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 4, "lo')
    assert read_curves(tmp_path, experiment, "pretrain")[1] == [
        "own/seed-0/pretrain/metrics.jsonl: 1 unreadable line left out"
    ]


def test_a_finished_stage_whose_log_was_cut_emptied_or_deleted_is_noted(tmp_path):
    result = dataclasses.replace(make_result(0, "own", eval="pretrain", split="train"), metrics={"updates": 9.0})
    write_results(tmp_path, [result])
    experiment, folder = make_experiment(("own",)), tmp_path / "own" / "seed-0" / "pretrain"

    def noted():
        return [
            note.removeprefix("own/seed-0/pretrain/metrics.jsonl: ")
            for note in read_curves(tmp_path, experiment, "pretrain")[1]
        ]

    nothing = ["there is none, or an empty one; the curves leave this seed out"]
    assert noted() == nothing
    write_log(folder, [{"epoch": 1, "update": 3}, {"epoch": 2, "update": 6}, {"epoch": 3, "update": 9}])
    assert noted() == []
    log = folder / "metrics.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:2]))
    assert noted() == ["it ends before the training did"]
    log.write_bytes(b"")
    assert noted() == nothing


def test_the_rank_is_shown_from_the_untrained_network_on():
    logs = [Curves("own", 1, {0: [{"epoch": 0, "heldout_rank": 12.0}, {"epoch": 4, "heldout_rank": 5.0}]})]
    (picture,) = curve_pictures(logs, [], make_experiment(("own",)))
    assert picture.name == "rank"
    (axes,) = picture.figure.axes
    assert axes.lines[0].get_xdata().tolist() == [0, 4]
    assert axes.lines[0].get_ydata().tolist() == [12.0, 5.0]
    assert axes.get_ylim()[0] == 0
