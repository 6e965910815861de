"""The claims of the paper and of SimSiam, and what the recorded runs say to each."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from experiments.results.recorded import Difference, Recorded, interval_text

STAGES = {"finetune": "fine-tuned", "linear": "linear probe", "knn": "kNN"}
ANSWERS = {
    1: "**yes** (interval leaves out 0)",
    -1: "**no**, the other way round (interval leaves out 0)",
    0: "undecided (interval includes 0)",
}


@dataclass(frozen=True)
class Claim:
    """That one arm is better than another.

    Attributes:
      words: The claim in words.
      run: Name of the run's folder.
      on: Data and network in words.
      arm: Name of the arm that should be better.
      reference: Name of the arm that it should be better than.
      stage: Name of the evaluation.
    """

    words: str
    run: str
    on: str
    arm: str
    reference: str
    stage: str = "finetune"


CIFAR10 = "table1_cifar10-small"
TABLE1 = "table1_fashion_mnist-small"
TABLE2 = "table2_digits-small"
CELLS = "table2_solar_cells-small"
TABLE3 = "table3_solar_attributes-small"
ABLATION = "ablate_simsiam-small"
NETWORKS = {"resnet18": "ResNet-18", "efficientnet_b0": "EfficientNet-B0", "vit_s": "ViT-S", "pit_ti": "PiT-Ti"}
DECIDED = {
    "helped": "**yes** (decided by the run's plan)",
    "hurt": "**no**, the other way round (decided by the run's plan)",
    "too_small": "**no**, too small to matter (decided by the run's plan)",
    "undecided": "undecided by the run's plan",
}
TURNED = {"helped": "hurt", "hurt": "helped"}
CLAIMS = (
    Claim("`make demo`: own images beat no pretraining", "demo-small", "digits", "in_domain", "none", "linear"),
    *(
        Claim(
            f"Table 1: {images} beat no pretraining",
            CIFAR10,
            f"CIFAR-10 (JPEG copy), {labels}",
            f"{arm}{few}",
            f"none{few}",
        )
        for arm, images, few, labels in (
            ("in_domain", "own images", "", "all labels"),
            ("in_domain", "own images", "-few", "1 % of the labels"),
            ("random", "random images", "", "all labels"),
        )
    ),
    *(
        Claim("Table 1: own images beat no pretraining", TABLE1, "Fashion-MNIST", "in_domain", "none", stage)
        for stage in ("finetune", "linear")
    ),
    Claim("Table 1: random images beat no pretraining", TABLE1, "Fashion-MNIST", "random", "none"),
    *(
        Claim(
            "Table 2: own images beat no pretraining",
            TABLE2,
            f"digits, {words}",
            f"{name}-in_domain",
            f"{name}-none",
        )
        for name, words in NETWORKS.items()
    ),
    *(
        Claim(
            "Table 3: own images beat no pretraining",
            TABLE3,
            f"solar attributes, {NETWORKS[name]}",
            f"{name}-in_domain",
            f"{name}-none",
        )
        for name in ("resnet18", "pit_ti")
    ),
    *(
        Claim("Tables 2, 3: ImageNet weights beat none", run, on, "resnet18-imagenet", "resnet18-none")
        for run, on in ((CELLS, "solar cells, ResNet-18"), (TABLE3, "solar attributes, ResNet-18"))
    ),
    *(
        Claim(f"SimSiam: {words}", ABLATION, "Fashion-MNIST", "simsiam", without, "linear")
        for words, without in (
            ("the stop-gradient is needed", "no-stop-gradient"),
            ("the predictor is needed", "no-predictor"),
            ("batch norm in the heads is needed", "norm-none"),
        )
    ),
)


def answer(claim: Claim, run: Recorded) -> tuple[str, str, str]:
    """The answer to a claim in words, the difference with its 95 % interval, and the number of seeds.

    The plan of a run answers what it declared: its primary comparison, and those of further arms with the first one of
    their group. Anything else is answered where Student's plain interval of the difference leaves out zero.

    Args:
      claim: The claim.
      run: The recorded run that it is held against.
    """
    plan, first = run.experiment.plan, run.first_of_group(claim.arm)
    # The plan compares with the first arm: that SimSiam is better than without a part is that the arm without it hurt.
    turned = claim.arm == first
    arm, reference = (claim.reference, claim.arm) if turned else (claim.arm, claim.reference)
    decision = run.table.decisions.get(arm)
    if plan and decision and (claim.stage, reference) == (plan.evaluation, first):
        outcome, difference = decision.outcome, run.planned(arm)
        if turned:
            outcome, difference = TURNED.get(outcome, outcome), turn(difference)
        return DECIDED[outcome], interval_text(difference), str(decision.n)
    difference = run.difference(claim.arm, claim.reference, claim.stage)
    if difference is None:
        return "not run" if run.arm(claim.arm).absent else "not measured", "", ""
    return ANSWERS[difference.sign], interval_text(difference), str(difference.n)


def turn(difference: Difference) -> Difference:
    """The difference the other way round."""
    low, high = (None if end is None else -end for end in (difference.high, difference.low))
    return dataclasses.replace(difference, mean=-difference.mean, low=low, high=high)


def short_table(runs: Mapping[str, Recorded]) -> list[str]:
    """The claims that were measured, as a Markdown table for the main README.

    Args:
      runs: Recorded runs by the names of their folders.
    """
    lines = [
        "| claim | data | measured by | answer | difference in points (95 %) | seeds × draws | cost of the run |",
        "|---|---|---|---|---:|---:|---:|",
    ]
    for claim in CLAIMS:
        run = runs[claim.run]
        words, difference, seeds = answer(claim, run)
        if not seeds:
            continue
        draws = f"{seeds} × {run.draws(claim.arm, claim.stage)}"
        cost = f"{run.minutes:.0f} min"
        lines.append(
            f"| {claim.words} | {claim.on} | {STAGES[claim.stage]} | {words} | {difference} | {draws} | {cost} |"
        )
    return lines


def long_table(runs: Mapping[str, Recorded]) -> list[str]:
    """The claims with the command that measures each and the file that it is read from.

    Args:
      runs: Recorded runs by the names of their folders.
    """
    lines = ["| claim | on | answer | difference | command | file |", "|---|---|---|---:|---|---|"]
    for claim in CLAIMS:
        run = runs[claim.run]
        words, difference, _ = answer(claim, run)
        on = f"{claim.on}, {STAGES[claim.stage]}"
        file = f"[results.jsonl]({run.name}/results.jsonl)"
        lines.append(f"| {claim.words} | {on} | {words} | {difference} | `{run.experiment.command}` | {file} |")
    return lines
