"""The settings that `experiments.search_recipe` compares."""

from collections.abc import Mapping

from simsiam_jax.study.definition import Arm

# What the recipe `paper` comes to at this size: narrower heads and no accumulation, as the presets `small` have it.
PAPER = {"projector_dim": 512, "predictor_dim": 128, "learning_rate": 1e-3}
PLAIN = {"projector_output_norm": "plain", "projector_dim": 512, "predictor_dim": 128, "learning_rate": 5e-4}
FAST = {"predictor_rate": 10.0}
# The recipe `practice` as it was with Adam, which "practice" means in these names. It has SGD 0.1 by now.
PRACTICE = {**PLAIN, **FAST, "micro_batch_size": 64}
ADAMW = {"optimizer": "adamw", "weight_decay": 0.1}
SGD = {"optimizer": "sgd", "learning_rate": 0.05, "weight_decay": 5e-4}
FAST_SGD = {**SGD, "learning_rate": 0.1}
VIEWS_4 = {"target_views": 4, "epochs": 1, "min_updates": 750}
SLOW = {"learning_rate": 1.5e-4, "warmup_epochs": 10.0}
LARS = {"optimizer": "lars", "learning_rate": 0.5, "weight_decay": 1e-6}


def candidate(label: str, of: Mapping[str, object] = PLAIN, /, **changes: object) -> Arm:
    """An arm that pretrains with the settings `of`, but for some."""
    return Arm("in_domain", label, settings={**of, **changes})


ARMS = {
    "none": Arm("none", "no pretraining"),
    "paper": candidate("paper: affine norm, 512/128, Adam 1e-3", PAPER),
    # What the head, the rate and the batch do.
    "plain": candidate("plain norm, 512/128, Adam 5e-4"),
    "rate-2e-4": candidate("the same at 2e-4", learning_rate=2e-4),
    "head-1024": candidate("the same, head 1024/256", projector_dim=1024, predictor_dim=256),
    "head-2048": candidate("the same, head 2048/512", projector_dim=2048, predictor_dim=512),
    "batch-64": candidate("the same, batches of 64, as many updates", micro_batch_size=64, min_updates=2160),
    # A predictor that learns faster than the rest keeps the dimensions.
    "predictor-10": candidate("the same, predictor's rate × 10", **FAST),
    "predictor-30": candidate("the same, predictor's rate × 30", predictor_rate=30.0),
    "predictor-10-1e-3": candidate("predictor's rate × 10, at 1e-3", **FAST, learning_rate=1e-3),
    "predictor-10-long": candidate("predictor's rate × 10, twice the updates", **FAST, min_updates=4440),
    # Larger batches and more updates with it, and other settings beside these.
    "practice": candidate("practice with Adam 5e-4: predictor's rate × 10, batches of 64", PRACTICE),
    "practice-long": candidate("practice, 2,160 updates", PRACTICE, min_updates=2160),
    "practice-head-2048": candidate("practice, head 2048/512", PRACTICE, projector_dim=2048, predictor_dim=512),
    "practice-warmup-10": candidate("practice, 10 epochs of warm-up", PRACTICE, warmup_epochs=10.0),
    "practice-adamw": candidate("practice, AdamW, decay 0.1", PRACTICE, **ADAMW),
    "practice-sgd": candidate("practice, SGD 0.05", PRACTICE, **SGD),
    "practice-sgd-0.02": candidate("practice, SGD 0.02", PRACTICE, **{**SGD, "learning_rate": 0.02}),
    "practice-sgd-0.1": candidate("practice, SGD 0.1", PRACTICE, **FAST_SGD),
    "practice-sgd-0.2": candidate("practice, SGD 0.2", PRACTICE, **{**SGD, "learning_rate": 0.2}),
    "practice-sgd-predictor-1": candidate(
        "practice, SGD 0.05, predictor's rate × 1", PRACTICE, **SGD, predictor_rate=1.0
    ),
    "practice-sgd-views-4": candidate(
        "practice, SGD 0.05, mean of 3 views as target, half the updates", PRACTICE, **SGD, **VIEWS_4
    ),
    "practice-lars": candidate("practice, LARS 0.5", PRACTICE, **LARS),
    "practice-crop-0.2": candidate("practice, crops from 0.2", PRACTICE, crop_scale=(0.2, 1.0)),
    "practice-jitter-half": candidate("practice, half the jitter", PRACTICE, brightness=0.2, contrast=0.2),
    "practice-no-jitter": candidate("practice, no jitter", PRACTICE, jitter_probability=0.0),
    "practice-sgd-0.1-no-jitter": candidate(
        "practice, SGD 0.1, no jitter", PRACTICE, **FAST_SGD, jitter_probability=0.0
    ),
    "practice-lars-no-jitter": candidate("practice, LARS 0.5, no jitter", PRACTICE, **LARS, jitter_probability=0.0),
    "practice-views-4": candidate("practice, mean of 3 views as target, half the updates", PRACTICE, **VIEWS_4),
    # What of `paper` narrows EfficientNet-B0 (--backbone=efficientnet_b0), one flag at a time.
    "paper-plain": candidate("paper, plain norm on z", PAPER, projector_output_norm="plain"),
    "paper-5e-4": candidate("paper, Adam 5e-4", PAPER, learning_rate=5e-4),
    "paper-batch-64": candidate("paper, batches of 64", PAPER, micro_batch_size=64),
    "paper-predictor-10": candidate("paper, predictor's rate × 10", PAPER, **FAST),
    "paper-drop-path": candidate("paper, stochastic depth 0.2", PAPER, drop_path=0.2),
    # For --backbone=vit_s and pit_ti: MoCo v3's way.
    "adamw-5e-4": candidate("practice, AdamW 5e-4, decay 0.1", PRACTICE, **ADAMW),
    "adamw-1.5e-4": candidate("practice, AdamW 1.5e-4, decay 0.1, warm-up", PRACTICE, **ADAMW, **SLOW),
    "adamw-frozen": candidate(
        "the same, patch embedding frozen", PRACTICE, **ADAMW, **SLOW, frozen_patch_embedding=True
    ),
}
