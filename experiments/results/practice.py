"""What the recorded runs say of the recipe `practice`: the search that found it, and the demo on fresh seeds."""

import statistics
from collections.abc import Sequence

from experiments.results.recorded import NOTHING, Recorded, escape_markdown, interval_text, score_text
from simsiam_jax.report.collapse import ranks, spreads
from simsiam_jax.report.seeds import paired_difference
from simsiam_jax.report.words import OUTCOMES

# The runs of the search, and what each was about.
SEARCHES = {
    "search_recipe-digits": "Digits: the first candidates",
    "search_recipe-digits-finalists": "Digits: optimisers and views, five seeds of the finalists",
    "search_recipe-digits-rates": "Digits: the rate of SGD, five seeds",
    "search_recipe-digits-efficientnet_b0": "Digits with EfficientNet-B0",
    "search_recipe-digits-vit_s": "Digits with ViT-S",
    "search_recipe-digits-pit_ti": "Digits with PiT-Ti",
    "search_recipe-fashion_mnist": "Fashion-MNIST",
    "search_recipe-fashion_mnist-optimisers": "Fashion-MNIST: optimisers, 1,500 updates",
    "search_recipe-fashion_mnist-rates": "Fashion-MNIST: optimisers, another seed",
    "search_recipe-solar_cells": "Solar cells: is it the jitter?",
    "search_recipe-solar_cells-sgd": "Solar cells: jitter with SGD",
    "search_recipe-solar_cells-efficientnet_b0": "Solar cells with EfficientNet-B0: what narrows its outputs?",
    "search_recipe-cifar10_jpeg": "CIFAR-10 (JPEG copy)",
    "search_recipe-cifar10_jpeg-rates": "CIFAR-10 (JPEG copy): optimisers, 1,500 updates",
}
DEMOS = ("demo-small", *(f"demo-small-seed{first}" for first in (20, 40, 60, 80)))
_KEY = ("linear", "validation")


def demo_section(runs: Sequence[Recorded]) -> list[str]:
    """The demo's answers, a line for each set of seeds.

    Args:
      runs: Recorded runs of the demo.
    """
    lines = [
        "## The demo on five sets of seeds",
        "",
        "Each line is a whole run of `make demo` with seeds of its own; its settings were chosen on validation images, "
        "with seeds from 100 on. The answer is that of the primary comparison: the linear probe on test images, digits "
        "pretraining against none. The first run had two cores. Each of the others had one, beside other work, and a "
        "larger budget in case that it needed it.",
        "",
        "| command | answer | difference in points (95 %) | seeds | minutes |",
        "|---|---|---:|---:|---:|",
    ]
    for run in runs:
        found = run.table.decisions["in_domain"]
        seeds = f"{found.n}, from {run.table.seeds[0]} on"
        difference = "" if found.low is None else interval_text(run.planned("in_domain"))
        command = f"[`{run.experiment.command}`]({run.name}/report.md)"
        lines.append(f"| {command} | {OUTCOMES[found.outcome]} | {difference} | {seeds} | {run.minutes:.1f} |")
    helped = sum(run.table.decisions["in_domain"].outcome == "helped" for run in runs)
    return [*lines, "", f"Pretraining helped in {helped} of {len(runs)} runs.", ""]


def search_section(runs: Sequence[Recorded]) -> list[str]:
    """The candidates of the search for a recipe, a table for each data set.

    Args:
      runs: Recorded runs of `experiments.search_recipe`.
    """
    lines = [
        "## Which recipe on small data?",
        "",
        "The search behind the recipe `practice`. Every number is of *validation* images, with seeds from 100 on; "
        "test images were not read. The probe learns from few labels and is a mean over 20 draws of them. A candidate "
        "is judged by its worst seed too. Rank is the effective rank of the features, and beside it how many times "
        "that of the recipe `paper` on the same seeds. The spread of z is 1 where different images fill the sphere "
        "and 0 where all are one point. Candidates that fell behind on their first seed got no second one; `python "
        "-m experiments.search_recipe --dataset=NAME` runs all of them. In the names of candidates `practice` is the "
        "recipe as it was with Adam at 5e-4.",
        "",
        "- *Rate.* SGD at 0.1 is the recipe's. On digits it beats Adam on the mean of five seeds by eight points and "
        "on the worst seed by thirteen; on Fashion-MNIST and on two seeds of CIFAR-10 by one point each. Twice the "
        "rate is as good on digits, half of it a little worse, and a fifth fails on one seed of three: 0.1 lies "
        "inside the range that works. LARS at 0.5 comes close everywhere.",
        "- *Predictor.* With SGD, too, its fast rate is what matters: at the rate of the rest the probe falls below "
        "no pretraining.",
        "- *EfficientNet-B0.* Adam, by `paper` as by `practice`, costs it half of its probe on digits. SGD at 0.1 "
        "and LARS leave the probe above no pretraining, each by about three points, on one seed.",
        "- *Transformers.* Without pretraining ViT-S knows little of digits; every setting of `practice` doubles its "
        "probe, most of all AdamW at a low rate with the patch embedding frozen, which the recipe has for "
        "transformers. For PiT-Ti all settings lie within two points, and far above `paper`. One seed each.",
        "- *Solar cells.* How dark a cell is tells its defects, and features that colour jitter has made blind to it "
        "tell less. With jitter the probe of `practice` lies below that of no pretraining, with Adam on both seeds, "
        "with SGD on one of two and in the mean. Without jitter it lies above on both seeds with either. So the data "
        "set's views have no jitter by now; `--jitter_probability=0.8` repeats the searches below. For "
        "EfficientNet-B0 views without jitter gave back twelve points with Adam, on one seed.",
        "",
    ]
    for run in runs:
        lines += [
            f"### {SEARCHES[run.name]}",
            "",
            "```",
            run.experiment.command,
            "```",
            "",
            f"{escape_markdown(run.size)}; {run.table.headline.name} in %; {run.minutes:.0f} minutes; {run.device}; "
            f"revision {run.revision}; [results.jsonl]({run.name}/results.jsonl).",
            "",
            *_candidates(run),
            "",
        ]
    return lines


def _candidates(run: Recorded) -> list[str]:
    lines = [
        "| candidate | seeds | linear probe | worst seed | Δ to none (95 %) | rank | of `paper`'s | spread of z |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    spread = {found.arm.name: f"{found.mean:.2f}" for found in spreads(run.results, run.experiment)}
    measured = {found.arm.name: found for found in ranks(run.results, run.experiment)}
    none = run.scores["none"][_KEY].by_seed
    paper = measured["paper"].trained if "paper" in measured else {}
    untrained = next(iter(measured.values())).untrained
    for arm in run.experiment.arms:
        score = run.scores[arm.name].get(_KEY)
        if score is None:
            continue
        difference = None if arm.name == "none" else paired_difference(score.by_seed, none)
        rank, share = NOTHING, NOTHING
        if arm.name in measured:
            ours = measured[arm.name].trained
            rank = f"{statistics.fmean(ours.values()):.1f}"
            common = sorted(ours.keys() & paper.keys())
            share = f"{statistics.fmean(ours[seed] / paper[seed] for seed in common):.1f}" if common else NOTHING
        elif arm.name == "none":
            rank = f"{statistics.fmean(untrained.values()):.1f}"
        cells = [escape_markdown(arm.words), str(len(score.by_seed)), score_text(score)]
        cells += [f"{min(score.by_seed.values()):.2f}", interval_text(difference) if difference else NOTHING]
        lines.append(f"| {' | '.join([*cells, rank, share, spread.get(arm.name, NOTHING)])} |")
    return lines
