"""Settings of the evaluation stage."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from kdistill.config import ConfigModel

ComparedName = Literal["report_f1", "rationale_f1", "auc", "auprc"]
SubgroupBy = Literal["source", "sex", "age", "view_position"]


#: Bins of equal width on [0, 1] for the calibration error, unless the configuration says otherwise.
CALIBRATION_BINS: Final = 10


class PrimaryEndpoint(ConfigModel):
    """The one comparison that was written down before any arm was trained: report_f1, 14 observations, micro, U+."""

    arm: str = Field(default="full", description="the arm that is claimed to be better")
    baselines: tuple[str, ...] = Field(
        default=(
            "report_only",
            "report_only_long",
            "label",
            "teacher_label",
            "template",
            "shuffled_teacher",
            "classifier_template",
        ),
        description="arms that it must beat; one that a recipe does not train is listed as null with the reason",
    )


class ComparisonSpec(ConfigModel):
    """One secondary comparison of two arms (micro average over 14 observations, and each observation apart)."""

    name: ComparedName = Field(description="the score to compare")
    arm: str = Field(description="the arm whose score comes first in the difference")
    baseline: str = Field(description="the arm that is subtracted")


#: Arms of the ablation that leave something out of `full`, or put its sites at a wrong place.
_WITHOUT: Final = (
    *(f"full_no_{part}" for part in ("where", "rationale", "token", "semantic", "impression")),
    *("full_mirrored_where", "full_displaced_where"),
)


def _secondary() -> tuple[ComparisonSpec, ...]:
    pairs = (
        ("report_f1", "full", "nearest_report"),
        ("report_f1", "full", "classifier_template_full"),
        *(("report_f1", "full", arm) for arm in _WITHOUT),
        *(("auc", "full", arm) for arm in _WITHOUT),
        ("report_f1", "full_consistency", "full"),
        ("auc", "full_consistency", "full"),
        ("report_f1", "full", "untrained_teacher"),
        ("report_f1", "full_no_token", "untrained_teacher"),
        ("auc", "full", "untrained_teacher"),
        ("report_f1", "report_only_long", "report_only"),
        ("report_f1", "template", "report_only"),
        ("report_f1", "shuffled_teacher", "report_only"),
        ("rationale_f1", "full", "template"),
        ("auc", "full", "label"),
        ("auc", "full", "teacher_label"),
        ("auc", "full", "template"),
        ("auc", "full", "shuffled_teacher"),
    )
    return tuple(ComparisonSpec(name=name, arm=arm, baseline=baseline) for name, arm, baseline in pairs)  # type: ignore[arg-type]


class EvaluationConfig(ConfigModel):
    """What is scored, how often it is resampled and which arms are compared."""

    seed: int = Field(default=0, ge=0, description="seed of the bootstrap and of the randomisation test")
    num_bootstrap: Annotated[int, Field(ge=100, le=20_000)] = Field(
        default=1000, description="patient resamples behind every 95% interval (named ci95, so the level is no setting)"
    )
    num_permutations: Annotated[int, Field(ge=100, le=100_000)] = Field(
        default=2000, description="random swaps behind every p value (the smallest possible p is 1 / (this + 1))"
    )
    num_calibration_bins: Annotated[int, Field(ge=2, le=100)] = Field(
        default=CALIBRATION_BINS,
        description="bins of equal width on [0, 1] for the calibration error and the reliability table",
    )
    references: tuple[Literal["truth", "report", "labels"], ...] = Field(
        default=("truth", "labels", "report"),
        description="references to score against, best first; one that the data lack is skipped, the first found leads",
    )
    text_scores: bool = Field(default=True, description="also BLEU-4 and ROUGE-L where the test studies have reports")
    subgroups: tuple[SubgroupBy, ...] = Field(
        default=("source", "sex", "age", "view_position"),
        description="micro report_f1 and AUC within each group (only where the test studies fall into more than one)",
    )
    min_subgroup_patients: Annotated[int, Field(ge=2)] = Field(
        default=20, description="patients that a subgroup needs to be shown"
    )
    primary: PrimaryEndpoint = Field(default=PrimaryEndpoint(), description="the primary endpoint")
    comparisons: tuple[ComparisonSpec, ...] = Field(
        default_factory=_secondary, description="secondary comparisons; arms that a recipe does not train give null"
    )
