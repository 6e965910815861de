"""Confusions are coloured by what they mean: blue where the answer is right, orange where it is wrong."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from simsiam_jax.records.experiment import read_experiment
from simsiam_jax.report.confusion import confusion_picture
from simsiam_jax.report.style import ARM_COLOURS, WRONG
from tests.support.made_up import made_up_workdir


def colours_of(workdir):
    """The colours of the first arm's matrix [lines, columns, 3], and the names of its columns and lines."""
    experiment = read_experiment(workdir)
    axes = confusion_picture(workdir, experiment, experiment.arms, []).figure.axes[0]
    columns, lines = ([tick.get_text() for tick in ticks] for ticks in (axes.get_xticklabels(), axes.get_yticklabels()))
    found = np.array([cell.get_facecolor()[0, :3] for cell in axes.collections])
    return found.reshape(len(lines), len(columns), 3), columns, lines


@pytest.mark.parametrize("attributes", [3, 4, 5])
def test_found_and_rightly_absent_are_right_whatever_the_number_of_attributes(tmp_path, attributes):
    workdir = made_up_workdir(tmp_path / "run", label_kind="attributes", attributes=attributes)
    found, columns, lines = colours_of(workdir)
    assert columns == ["found", "false alarm", "missed", "rightly absent"]
    assert lines == [f"attribute {place}" for place in range(attributes)]
    blue, orange = to_rgb(ARM_COLOURS[2]), to_rgb(WRONG)
    np.testing.assert_allclose(found, [[blue, orange, orange, blue]] * attributes)


def test_the_diagonal_of_classes_is_right(tmp_path):
    found, columns, lines = colours_of(made_up_workdir(tmp_path / "run"))
    assert columns == lines == ["trousers", "pullover", "dress"]
    wanted = np.where(np.eye(3, dtype=bool)[..., None], to_rgb(ARM_COLOURS[2]), to_rgb(WRONG))
    np.testing.assert_allclose(found, wanted)
