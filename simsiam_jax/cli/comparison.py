"""A comparison of arms as a command line runs it: its flags, the study of its arms, the report and the table."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simsiam_jax.cli.flags import define, value
from simsiam_jax.cli.guard import run_command
from simsiam_jax.cli.launch import (
    arm_configs,
    command,
    config_from_flags,
    define_study_flags,
    folders,
    help_values,
    run_study,
)
from simsiam_jax.cli.plan import analysis_plan, budget_flag, seeds_of
from simsiam_jax.data.datasets import dataset_title
from simsiam_jax.errors import require
from simsiam_jax.models import without_absent_fields
from simsiam_jax.records.experiment import EVALUATIONS, Layout
from simsiam_jax.settings.recipes import PRESETS
from simsiam_jax.study.definition import Arm, Study


@dataclass(frozen=True)
class Comparison:
    """A table of arms, which a launcher or a command runs.

    Attributes:
      arms: Arms of the table, the reference first.
      experiment: Name of the launcher's module in `experiments`, or of the command.
      title: Title of the report; `{dataset}` stands for the data set's name.
      question: Question that the report answers; `{dataset}` likewise.
      dataset: The default data set; None where the command line has to name one.
      preset: The default preset.
      presets: Settings by the preset's name: names of `SETTINGS`, `image_size` and `seeds`.
      evaluations: Evaluations to run.
      paper_source: Source of the arms' published numbers.
      layout: The table in the paper's form.
      tested: Whether evaluations read the test images.
      primary: The arms whose comparison with the first arm of their group is the question; declared before anything
        runs.
      decided_by: The evaluation that decides it; None only describes, as a search for settings does.
      recipe: The default recipe.
      budget: The default budget of a run with --seeds=auto, as its flag takes it.
    """

    arms: Mapping[str, Arm]
    experiment: str
    title: str
    question: str
    dataset: str | None
    preset: str = "small"
    presets: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=lambda: PRESETS)
    evaluations: tuple[str, ...] = EVALUATIONS
    paper_source: str | None = None
    layout: Layout | None = None
    tested: bool = True
    primary: tuple[str, ...] = ()
    decided_by: str | None = None
    recipe: str = "paper"
    budget: str | None = None

    def run(self) -> None:
        """Runs the comparison that the command line asks for. Does not return."""
        run_command(self)

    def define(self) -> None:
        """Defines its flags: every setting, those of the run, and those of its arms."""
        define_study_flags(
            experiment=self.experiment,
            dataset=self.dataset,
            preset=self.preset,
            recipe=self.recipe,
            budget=self.budget,
            # Settings are chosen with seeds that no reported run has.
            first_seed=0 if self.tested else 100,
        )
        define(["arms", "evals"], arms=list(self.arms), evals=list(self.evaluations))
        if self.decided_by is not None:
            define(["smallest_effect"])
        if any(arm.settings.get("init") == "imagenet" for arm in self.arms.values()):
            define(["imagenet_weights"])

    def values(self) -> dict[str, Any]:
        """The value of every setting under the chosen recipe, preset and flags, for `--help`."""
        return help_values(self.presets)

    def main(self) -> None:
        """Runs the study that the flags describe."""
        config, planned = config_from_flags(self.presets, one_backbone=False)
        require(
            len(planned) == 1 or self.decided_by is not None,
            "--seeds=auto: this launcher compares without a question to decide; give a number of seeds",
        )
        names = value("arms")
        for name in names:
            require(name in self.arms, f"--arms: unknown arm {name!r}; known: {', '.join(self.arms)}")
        chosen = {name: arm for name, arm in self.arms.items() if name in names}
        configs = arm_configs(chosen, config, self.presets)
        if len({arm.program.backbone.name for arm in configs.values()}) == 1:
            backbone = without_absent_fields(config.program.backbone)
            config = dataclasses.replace(config, program=dataclasses.replace(config.program, backbone=backbone))
        plan = None
        if self.decided_by:
            plan = analysis_plan(planned, evaluation=self.decided_by, primary=self.primary)
        run_study(
            Study(
                experiment=self.experiment,
                title=self.title.format(dataset=dataset_title(config.dataset)),
                question=self.question.format(dataset=dataset_title(config.dataset)),
                arms=chosen,
                config=config,
                seeds=seeds_of(planned),
                evaluations=value("evals"),
                command=command(self.experiment),
                paper_source=self.paper_source,
                configs={name: arm for name, arm in configs.items() if arm != config},
                layout=self.layout,
                tested=self.tested,
                known_arms=tuple(self.arms),
                plan=plan,
                budget=budget_flag(),
                **folders(),
            )
        )
