"""What `--dry_run` says: the units that are left, their time, and what an answer will take."""

import dataclasses

import pytest

from simsiam_jax.settings.recipes import PRESETS, recipe_config
from simsiam_jax.settings.resolve import with_settings
from simsiam_jax.settings.values import to_dict
from simsiam_jax.study import estimate
from simsiam_jax.study.definition import THREE_ARMS, Study
from simsiam_jax.study.estimate import Rates, expected_answer, print_estimate
from tests.support.made_up import make_experiment, make_plan, make_scores, write_results

CONFIG = with_settings(
    recipe_config("practice", dataset="digits", image_size=16),
    {name: each for name, each in PRESETS["smoke"].items() if name != "seeds"} | {"stem": "cifar", "patch_size": None},
)
PLAN = make_plan(("in_domain",), looks=(3, 5), evaluation="linear")
RATES = Rates(compiling=60.0, pretrain=0.1, finetune=0.1, look=0.0)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def study(tmp_path, data_dir):
    return Study(
        experiment="demo",
        title="t",
        question="q",
        arms=THREE_ARMS,
        config=CONFIG,
        seeds=PLAN.seeds,
        evaluations=("linear",),
        workdir=tmp_path / "run",
        data_dir=data_dir,
        manual_dir=None,
        command="python",
        plan=PLAN,
    )


@pytest.fixture
def printed(monkeypatch, capsys):
    """Prints the estimate of a study whose networks need `RATES`."""
    monkeypatch.setattr(estimate, "measure", lambda *_: RATES)

    def words(study):
        print_estimate(study)
        return " ".join(capsys.readouterr().out.split())

    return words


def measured(study, gains):
    """Writes what a run with these gains over no pretraining leaves, seed by seed."""
    experiment = make_experiment(
        list(study.arms), ("linear",), config=to_dict(study.config), plan=study.plan, seeds=tuple(range(len(gains)))
    )
    study.workdir.mkdir()
    experiment.write(study.workdir)
    scores = {"none": [0.5] * len(gains), "random": [0.5] * len(gains), "in_domain": [0.5 + gain for gain in gains]}
    write_results(
        study.workdir,
        [line for arm, values in scores.items() for line in make_scores(arm, values, eval="linear")]
        + [
            line
            for arm in ("random", "in_domain")
            for line in make_scores(arm, [0.5] * len(gains), eval="pretrain", split="validation")
        ],
    )


def test_the_first_line_is_printed_before_anything_is_timed(study, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(estimate, "measure", lambda *_: seen.append(capsys.readouterr().out) or RATES)
    print_estimate(study)
    assert seen[0] == "3 arms, 3, 5 seeds; timing a few steps of each network\n"


def test_before_anything_is_measured_an_answer_is_a_guess(study, printed):
    words = printed(study)
    # A seed: two epochs of 256 images and of 128 random ones in 76.8 s, and the probes.
    assert "9 units, about 4 min 54 s" in words
    assert "a guess, until two seeds are measured" in words
    answer = expected_answer(study)
    assert answer.measured == 0
    assert f"an answer takes {answer.seeds:.1f} seeds on average, 5 at most: about " in words
    assert f"The chance of an answer is {answer.chance:.0%}." in words
    assert "7 min 31 s at most" in words
    assert "budget" not in words


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (200.0, "The budget of 3 min 20 s ends before the first look: there will be no answer."),
        (300.0, "The budget of 5 min 00 s will probably end before the answer."),
        (3600.0, "The budget of 1 h 00 min suffices on average."),
    ],
)
def test_a_budget_is_held_against_the_time(study, printed, budget, said):
    assert printed(dataclasses.replace(study, budget=budget)).endswith(said)


def test_measured_seeds_take_the_place_of_the_guess(study, printed):
    measured(study, (0.02, 0.04))
    words = printed(study)
    assert "With a difference of 3.0 points and a spread of 1.4 over seeds (as the first 2 seeds show)" in words
    # One seed is left up to the first look.
    assert "3 units" in words


def test_after_a_look_that_decided_nothing_the_estimate_is_of_the_next_one(study, printed):
    measured(study, (0.02, 0.04, -0.01))
    words = printed(dataclasses.replace(study, budget=60.0))
    assert "6 units" in words
    assert "as the first 3 seeds show" in words
    # The seeds that are measured count: the run did not stop at its first look.
    assert "an answer takes 5.0 seeds on average" in words
    assert "ends before the next look" in words


def test_of_a_decided_run_nothing_is_left(study, printed):
    measured(study, (0.30, 0.31, 0.29))
    words = printed(study)
    assert "0 units" in words
    assert "in_domain helped" in words
    assert words.endswith("the run ends")
