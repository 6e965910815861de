"""Which arms get more seeds, read from what a run has measured."""

import pytest

from simsiam_jax.settings.recipes import recipe_config
from simsiam_jax.study.decide import next_arms
from simsiam_jax.study.definition import Arm, Study
from tests.support.made_up import make_arm, make_experiment, make_plan, make_scores, write_results

GROUPS = ("A", "B")
ARMS = {
    f"{group}-{name}": Arm(pretrain, name, group=group)
    for group in GROUPS
    for name, pretrain in (("none", "none"), ("random", "random_images"), ("own", "in_domain"))
}
PLAN = make_plan(tuple(name for name in ARMS if name.endswith("own")), looks=(3, 5))
BASE = (0.50, 0.52, 0.57, 0.51, 0.53)
CLEAR, UNCLEAR = (0.30, 0.31, 0.29, 0.30, 0.30), (0.02, -0.03, 0.05, 0.01, -0.04)


def decided(workdir, gains, seeds=3):
    """What comes next where the own images of each group gained so much over none, and random ones nothing."""
    experiment = make_experiment(
        [make_arm(name, arm.label, group=arm.group) for name, arm in ARMS.items()], plan=PLAN, seeds=tuple(range(seeds))
    )
    experiment.write(workdir)
    results = []
    for group, differences in zip(GROUPS, gains, strict=True):
        results += make_scores(f"{group}-none", BASE[:seeds])
        results += make_scores(f"{group}-random", BASE[:seeds])
        results += make_scores(f"{group}-own", [a + b for a, b in zip(BASE, differences, strict=True)][:seeds])
    write_results(workdir, results)
    study = Study(
        experiment="demo",
        title="t",
        question="q",
        arms=ARMS,
        config=recipe_config("paper", dataset="digits", image_size=16),
        seeds=PLAN.seeds,
        evaluations=("finetune",),
        workdir=workdir,
        data_dir=workdir,
        manual_dir=None,
        command="python",
        plan=PLAN,
    )
    return next_arms(study)


def test_only_the_group_whose_primary_arm_is_open_goes_on_and_its_reference_with_it(tmp_path):
    arms, seeds, words = decided(tmp_path, (CLEAR, UNCLEAR))
    assert (arms, seeds) == (("B-none", "B-random", "B-own"), 5)
    assert "A-own helped" in words
    assert "B-own undecided" in words
    assert words.endswith(": going on to 5 seeds")


def test_all_groups_go_on_where_both_are_open(tmp_path):
    assert decided(tmp_path, (UNCLEAR, UNCLEAR))[:2] == (tuple(ARMS), 5)


@pytest.mark.parametrize(("gains", "seeds"), [((CLEAR, CLEAR), 3), ((CLEAR, UNCLEAR), 5)], ids=["decided", "last look"])
def test_a_run_ends_where_its_question_is_decided_or_its_last_look_is_past(tmp_path, gains, seeds):
    arms, needed, words = decided(tmp_path, gains, seeds)
    assert (arms, needed) == ((), None)
    assert words.endswith(": the run ends")


def test_before_the_first_look_all_arms_go_on_to_it(tmp_path):
    assert decided(tmp_path, (CLEAR, CLEAR), seeds=2)[:2] == (tuple(ARMS), 3)
