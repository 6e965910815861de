"""How long a pretraining is, and what is said while its features lose dimensions."""

from unittest.mock import Mock

import numpy as np
import pytest

from simsiam_jax.data.cache import ImageSplit
from simsiam_jax.errors import InputError
from simsiam_jax.settings.recipes import recipe_config
from simsiam_jax.settings.resolve import with_settings
from simsiam_jax.study.stages import RankWatch, Unit, pretraining_plan

IMAGES = ImageSplit(np.zeros((50, 2, 2, 3), np.uint8), np.zeros(50, np.int32), np.arange(50, dtype=np.int32), "some")
CONFIG = with_settings(
    recipe_config("paper", dataset="digits", image_size=16),
    {"micro_batch_size": 8, "accumulation": 2, "epochs": 4, "warmup_epochs": 1.0},
)


def test_a_small_data_set_is_seen_more_often_where_a_least_number_of_updates_is_asked_for():
    # Fifty images are three updates of sixteen.
    assert pretraining_plan(CONFIG, IMAGES, seed=0).epochs == 4
    plan = pretraining_plan(with_settings(CONFIG, {"min_updates": 20}), IMAGES, seed=0)
    assert (plan.epochs, len(plan.rates)) == (7, 21)
    # The warm-up is still one epoch, and the decay ends with the last update.
    assert np.argmax(plan.rates) in (2, 3)
    assert plan.rates[-1] < 0.05 * plan.rates.max()


def test_an_epoch_without_an_update_is_refused_whatever_number_of_updates_is_asked_for():
    few = IMAGES.take(np.arange(15))
    with pytest.raises(InputError, match="--accumulation=2: an epoch of 15 images"):
        pretraining_plan(with_settings(CONFIG, {"min_updates": 20}), few, seed=0)


@pytest.mark.parametrize(("recipe", "advised"), [("paper", True), ("practice", False)])
def test_lost_dimensions_are_warned_of_once_and_no_run_is_advised_the_recipe_it_has(recipe, advised, caplog):
    unit = Mock(spec=Unit, title="own seed 0", config=recipe_config(recipe, dataset="digits", image_size=16))
    watch = RankWatch(unit, from_epoch=2.0)
    for epoch, rank in enumerate((12.0, 4.0, 8.0, 5.0, 4.0)):
        watch.look({"heldout_rank": rank}, epoch)
    (warning,) = caplog.messages
    assert "own seed 0: the features lose dimensions (effective rank 5.0 after 3 epochs, 12.0 before" in warning
    assert "a lower learning rate, more updates" in warning
    assert ("--recipe=practice" in warning) == advised
