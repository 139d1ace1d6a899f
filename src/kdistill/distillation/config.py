"""Settings of distillation and the table of arms. Imports neither torch nor transformers."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Final, Literal

from pydantic import Field, field_validator, model_validator

from kdistill.config import ConfigModel
from kdistill.observations import UncertainPolicy
from kdistill.records import Place
from kdistill.student.config import ReasoningInput

Term = Literal[
    "report", "label", "side", "rationale", "token", "semantic", "where", "consistency", "counterfactual"
]  # fmt: skip
#: Terms on generated text; the others read the observation queries.
TEXT_TERMS: Final[frozenset[Term]] = frozenset({"report", "rationale", "token", "consistency"})
#: Terms that take the label head at its word: without a label term there is nothing to take.
HEAD_TERMS: Final[frozenset[Term]] = frozenset({"consistency", "counterfactual"})
LabelSource = Literal["explicit", "teacher", "none"]
TeacherKnowledge = Literal["trained", "untrained"]
RationaleSource = Literal["teacher", "template", "shuffled_teacher", "none"]
ImpressionKind = Literal["written", "canonical"]
TrainingView = Literal["first", "any_frontal"]


class TermWeights(ConfigModel):
    """Weight of each named term; zero switches a term off at no cost. Set before any arm was trained, not tuned; what
    the ablation found useless is off."""

    report: float = Field(default=1.0, ge=0, description="Cross-entropy per report token.")
    label: float = Field(default=4.0, ge=0, description="Mean binary cross-entropy per known label.")
    side: float = Field(default=0.2, ge=0, description="Cross-entropy per stated side (left, right, bilateral).")
    rationale: float = Field(default=1.0, ge=0, description="Cross-entropy per rationale token.")
    token: float = Field(
        default=0.0,
        ge=0,
        description="Divergence from the teacher per rationale token. Off: at 0.5 worth .012 of F1 at best (LOG.md).",
    )
    semantic: float = Field(
        default=0.0,
        ge=0,
        description="InfoNCE per stated observation. Off: at 0.5 it lowered F1 and AUC in the ablation (LOG.md).",
    )
    where: float = Field(default=0.3, ge=0, description="-log attention mass inside the site per stated observation.")
    consistency: float = Field(default=0.2, ge=0, description="KL(label head, own text) per drawn observation.")
    counterfactual: float = Field(
        default=0.2,
        ge=0,
        description="-log(1 - p) and drift of others per changed image, where an arm names it; at 0.2 it did harm.",
    )


class DivergenceConfig(ConfigModel):
    """How the token term compares the student's next-token distribution with the teacher's."""

    kind: Literal["forward_kl", "reverse_kl", "generalized_jsd"] = Field(
        default="generalized_jsd", description="forward_kl: KL(teacher, student); reverse_kl: KL(student, teacher)."
    )
    beta: float = Field(default=0.5, gt=0, lt=1, description="Teacher's share in the mixture of generalized_jsd.")
    temperature: float = Field(default=1.5, gt=0, description="Softens both sides; the term scales by its square.")


class OnPolicyConfig(ConfigModel):
    """The token term on the student's own rationales, in arms with `on_policy` (Agarwal et al. 2023, 2306.13649)."""

    share: float = Field(default=0.5, ge=0, le=1, description="lambda: share of the steps; in the others the cache.")
    temperature: float = Field(default=1.0, gt=0, description="Of the student's sampling.")
    max_new_tokens: int = Field(default=96, ge=1, description="Longest sampled rationale, in tokens.")
    max_prompt_tokens: int = Field(default=192, ge=16, description="As rationales.max_prompt_tokens.")


class ConsistencyConfig(ConfigModel):
    """How many statements the student's text is asked about."""

    share: float = Field(default=0.25, gt=0, le=1, description="Share of a step's studies, one observation of each.")


class CounterfactualConfig(ConfigModel):
    """What is removed from an image, and what may change by it."""

    share: float = Field(default=0.25, gt=0, le=1, description="Share of a step's studies with a present observation.")
    mass: float = Field(default=0.6, gt=0, le=1, description="Attention mass of the patches that are removed.")
    max_area: float = Field(default=0.125, gt=0, le=0.5, description="Largest share of the image that is removed.")
    overlap: float = Field(
        default=0.1, ge=0, le=1, description="Others stay whose attention mass in the removed patches is at most this."
    )
    stay: float = Field(default=1.0, ge=0, description="Weight of the others' squared drift.")


class NoAugmentation(ConfigModel):
    """Training shows the images as they are."""

    kind: Literal["none"] = "none"


class GeometricPhotometric(ConfigModel):
    """Each visit turns, zooms, shifts and re-exposes its training image, evenly within these bounds (see `augment`).

    The bounds are what positioning and exposure may do between two films of one patient; they were written down, not
    tuned. They are capped where a film would no longer be upright. There is no flip: sides carry meaning.
    """

    kind: Literal["geometric_photometric"]
    max_rotation_degrees: float = Field(default=7.0, ge=0, le=30, description="Turned by up to this, either way.")
    max_shift: float = Field(
        default=0.05, ge=0, le=0.25, description="Shifted by up to this share of the image's side, across and along."
    )
    max_scale: float = Field(
        default=0.1, ge=0, le=0.5, description="Zoomed by 1 / (1 + this) to 1 + this, evenly in the logarithm."
    )
    max_brightness: float = Field(
        default=0.1, ge=0, le=0.5, description="Added or taken off, as a share of the range from black to white."
    )
    max_contrast: float = Field(
        default=0.2, ge=0, le=1, description="Distance from middle grey times 1 / (1 + this) to 1 + this."
    )
    max_gamma: float = Field(default=0.2, ge=0, le=1, description="Raised to the power of 1 / (1 + this) to 1 + this.")
    max_noise: float = Field(
        default=0.02, ge=0, le=0.2, description="Largest standard deviation of the noise, a share of black to white."
    )


AugmentationConfig = Annotated[NoAugmentation | GeometricPhotometric, Field(discriminator="kind")]


class ArmConfig(ConfigModel):
    """What one arm of the comparison learns from. Arms share data, order, steps and seeds."""

    kind: Literal["trained", "nearest_report", "classifier_template"] = Field(
        default="trained", description="The last two are untrained references, made from another arm's student."
    )
    reads_student: str | None = Field(default=None, description="Whose student an untrained reference is made from.")
    reasoning_input: ReasoningInput = Field(default="observations", description="What the decoder reads.")
    label_source: LabelSource = Field(default="none", description="Whose reading of the report gives the labels.")
    rationale_source: RationaleSource = Field(default="none", description="Whose text, regions and statements.")
    terms: tuple[Term, ...] = Field(default=("report",), description="Terms of the objective.")
    impression: ImpressionKind = Field(
        default="written",
        description="Impression of the training reports: as written, or the conclusion of the arm's rationale.",
    )
    teacher: TeacherKnowledge = Field(
        default="trained",
        description="Who reads the reports and writes the rationales: the teacher, or (a control) the same model as it "
        "was before it read the literature.",
    )
    on_policy: bool = Field(default=False, description="Take the token term on the student's own texts, in a share.")
    long: bool = Field(default=False, description="Train for as long as `full` computes (see full_compute_ratio).")
    blank_image: bool = Field(default=False, description="Replace every image by mean grey.")
    sites: Place = Field(
        default="stated",
        description="Where the where term's sites are put: as controls reflected left to right, or displaced so that "
        "those alike on both sides are wrong as well (see `sites.boxes`).",
    )

    @property
    def has_label_head(self) -> bool:
        """Whether probabilities of this arm mean anything."""
        return "label" in self.terms


_LABEL: Final[tuple[Term, ...]] = ("report", "label", "side")
_FULL: Final[tuple[Term, ...]] = (*_LABEL, "rationale", "token", "semantic", "where")
_TEMPLATE: Final[tuple[Term, ...]] = (*_LABEL, "rationale", "where")


def _full(without: Term | None = None, **changes: object) -> ArmConfig:
    terms = tuple(term for term in _FULL if term != without)
    settings: dict[str, object] = {
        "label_source": "teacher",
        "rationale_source": "teacher",
        "impression": "canonical",
        "terms": terms,
        **changes,
    }
    return ArmConfig.model_validate(settings)


def _template(terms: tuple[Term, ...]) -> ArmConfig:
    return ArmConfig(label_source="explicit", rationale_source="template", impression="canonical", terms=terms)


def _classifier_template(student: str, label_source: LabelSource) -> ArmConfig:
    return ArmConfig(
        kind="classifier_template", reads_student=student, label_source=label_source, terms=("label", "side")
    )


#: METHOD section 4. `full_no_rationale` keeps semantic and where, and loses the token term with its text; consistency,
#: counterfactual and the student's own texts take part only where an arm names them.
ARMS: Final[Mapping[str, ArmConfig]] = MappingProxyType(
    {
        "report_only": ArmConfig(reasoning_input="patches"),
        "report_only_long": ArmConfig(reasoning_input="patches", long=True),
        "label": ArmConfig(label_source="explicit", terms=_LABEL),
        "label_patches": ArmConfig(reasoning_input="patches", label_source="explicit", terms=_LABEL),
        "teacher_label": ArmConfig(label_source="teacher", terms=_LABEL),
        "full": _full(),
        "full_no_where": _full("where"),
        "full_mirrored_where": _full(sites="mirrored"),
        "full_displaced_where": _full(sites="displaced"),
        "full_no_rationale": _full(terms=(*_LABEL, "semantic", "where")),
        "full_no_token": _full("token"),
        "full_no_semantic": _full("semantic"),
        "full_no_impression": _full(impression="written"),
        "template": _template(_TEMPLATE),
        "template_no_where": _template(_TEMPLATE[:-1]),
        "shuffled_teacher": _full(label_source="explicit", rationale_source="shuffled_teacher", impression="written"),
        # Distributions and embeddings of a model that has learned nothing are noise: with them the control would lose
        # for another reason than what it is about. Beside it stands `full_no_token`.
        "untrained_teacher": _full(terms=(*_LABEL, "rationale", "where"), teacher="untrained"),
        "full_consistency": _full(terms=(*_FULL, "consistency")),
        "full_counterfactual": _full(terms=(*_FULL, "counterfactual")),
        "full_on_policy": _full(on_policy=True),
        "blank_image": _full(blank_image=True),
        "nearest_report": ArmConfig(kind="nearest_report", reads_student="label", terms=()),
        "classifier_template": _classifier_template("label", "explicit"),
        "classifier_template_full": _classifier_template("full", "teacher"),
    }
)


class DistillationConfig(ConfigModel):
    """Training, validation and prediction of every arm."""

    arms: tuple[str, ...] = Field(default=("report_only", "template", "full"), description="Arms to train, in order.")
    seeds: tuple[int, ...] = Field(default=(0,), description="One student of each arm is trained per seed.")
    num_image_visits: int = Field(default=18_000, ge=1, description="Images shown in a run, repeats counted.")
    text_every: int = Field(
        default=1,
        ge=1,
        description="Of so many visits one decodes texts, in arms that look through labelled observations; a decoder "
        "that reads patches has only texts to learn from where to look, and decodes at every visit.",
    )
    full_compute_ratio: float = Field(
        default=1.5, ge=1, description="Visits of `long` arms / num_image_visits: the compute of full over report_only."
    )
    batch_size: int = Field(default=16, ge=1, description="Studies in an optimiser step.")
    micro_batch: int = Field(default=16, ge=1, description="Studies in a forward pass; divides batch_size.")
    texts_per_chunk: int = Field(
        default=16, ge=1, description="Texts of similar length that are decoded together (less padding)."
    )
    pack_texts: bool = Field(
        default=True, description="Let texts share rows instead of padding them, if the decoder can keep them apart."
    )
    augmentation: AugmentationConfig = Field(
        default=NoAugmentation(), description="What training does to its images; prediction never does."
    )
    training_view: TrainingView = Field(
        default="first",
        description="Image of a study that training shows: the first, or one of its frontal ones, drawn at each visit. "
        "Prediction reads the first.",
    )
    data_workers: int = Field(
        default=0,
        ge=0,
        description="Processes that build batches ahead of the steps; they change no result.",
    )
    stages: Literal["joint", "visual_then_reasoning"] = Field(
        default="joint",
        description="joint: every term at every step; visual_then_reasoning: the vision side on its own terms, then, "
        "with it held still, the decoder on the texts (arms of texts alone stay joint).",
    )
    visual_share: float = Field(
        default=0.6, gt=0, lt=1, description="Share of the visits in the first of two stages; the sum stays the same."
    )
    learning_rate: float = Field(default=2e-3, gt=0, description="Peak learning rate of AdamW.")
    warmup_share: float = Field(default=0.05, ge=0, lt=1, description="Share of the steps with linear warm-up.")
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = Field(
        default="cosine", description="Learning rate after the warm-up."
    )
    weight_decay: float = Field(
        default=0.05,
        ge=0,
        description="Decoupled weight decay: not on biases, LayerNorms and norms of residual blocks; on all else, so "
        "also on the small encoder's other norm scales.",
    )
    max_grad_norm: float = Field(default=1.0, gt=0, description="Gradients are clipped to this norm.")
    bf16: bool | None = Field(
        default=None,
        description="Train under bfloat16 autocast; null: where the hardware multiplies in it (CUDA, AVX-512, AMX); "
        "an interrupted training goes on as it began. Say which where arms are trained on several machines.",
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="Compute activations inside encoder and decoder again instead of keeping them: less memory, about "
        "a third more time, the same gradients.",
    )
    weights: TermWeights = Field(default=TermWeights(), description="Weight of each term.")
    divergence: DivergenceConfig = Field(default=DivergenceConfig(), description="Comparison in the token term.")
    where_frame: Literal["fixed", "found"] = Field(
        default="fixed",
        description="Cut the where term's regions in the standard film's frame, or in that of each film's own thorax.",
    )
    on_policy: OnPolicyConfig = Field(default=OnPolicyConfig(), description="The arm full_on_policy.")
    consistency: ConsistencyConfig = Field(default=ConsistencyConfig(), description="The consistency term.")
    counterfactual: CounterfactualConfig = Field(default=CounterfactualConfig(), description="The counterfactual term.")
    semantic_temperature: float = Field(default=0.07, gt=0, description="Temperature of the semantic term's softmax.")
    uncertain: UncertainPolicy = Field(default="positive", description="What an uncertain training label becomes.")
    blank: Literal["negative", "masked"] = Field(
        default="negative", description="What an observation that a report does not mention becomes in training."
    )
    omission_rate: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="How often a report leaves out a finding that is there: the label term then learns presence, of "
        "which a mention is a noisy sign.",
    )
    soft_labels: bool = Field(
        default=False, description="A finding that the teacher inferred counts as much as the teacher is sure of it."
    )
    max_text_tokens: int = Field(default=192, ge=8, description="Longest text sequence; longer ones are cut, counted.")
    logging_steps: int = Field(default=20, ge=1, description="Steps between lines of history.jsonl.")
    checkpoint_steps: int = Field(
        default=200, ge=1, description="Steps between checkpoints (multiple of logging_steps)."
    )
    validation_steps: int = Field(default=200, ge=1, description="Steps between validation figures in history.jsonl.")
    num_validation_studies: int = Field(default=256, ge=1, description="Validation studies used for those figures.")
    prediction_batch: int = Field(default=256, ge=1, description="Images encoded and decoded at once.")
    max_new_tokens: int = Field(default=160, ge=1, description="Longest generated section, in tokens.")

    @field_validator("arms")
    @classmethod
    def _known_arms(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in ARMS:
                near = difflib.get_close_matches(name, ARMS, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise ValueError(f"no arm is named {name!r}; {hint}known: {', '.join(ARMS)}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> DistillationConfig:
        if self.batch_size % self.micro_batch:
            raise ValueError(f"micro_batch {self.micro_batch} does not divide batch_size {self.batch_size}")
        if self.checkpoint_steps % self.logging_steps:
            raise ValueError("checkpoint_steps must be a multiple of logging_steps, or a resumed history would differ")
        for name in self.arms:
            if self.where_frame == "found" and ARMS[name].sites == "displaced":
                raise ValueError(f"{name} displaces sites on the standard film: it needs where_frame: fixed")
            if (needed := ARMS[name].reads_student) not in (None, *self.arms):
                raise ValueError(f"{name} needs the arm {needed!r}")
        if twins := _twins(self):
            off = [term for term, weight in self.weights.model_dump().items() if not weight]
            hint = f", or give a weight to what sets them apart (0 now: {', '.join(off)})" if off else ""
            raise ValueError(f"{twins[1]} learns what {twins[0]} does under these weights: leave one of them out{hint}")
        return self

    def arm_text_every(self, arm: ArmConfig) -> int:
        """`text_every` of an arm."""
        return self.text_every if arm.reasoning_input == "observations" and arm.has_label_head else 1

    def num_steps(self, arm: str) -> int:
        """Optimiser steps of an arm."""
        visits = self.num_image_visits * (self.full_compute_ratio if ARMS[arm].long else 1.0)
        return max(1, round(visits / self.batch_size))


def active_terms(arm: ArmConfig, config: DistillationConfig) -> ArmConfig:
    """The arm without the terms whose weight is zero: they cost nothing, not even their inputs."""
    weights = config.weights.model_dump()
    terms = tuple(term for term in arm.terms if weights[term] > 0)
    on_policy = arm.on_policy and "token" in terms and config.on_policy.share > 0
    return arm.model_copy(update={"terms": terms, "on_policy": on_policy})


def _twins(config: DistillationConfig) -> tuple[str, str] | None:
    """Two arms that train the same student: their comparison would show a part to be worth nothing, untested."""
    seen: dict[ArmConfig, str] = {}
    for name in dict.fromkeys(config.arms):
        arm = active_terms(ARMS[name], config)
        unread: dict[str, object] = {} if "where" in arm.terms else {"sites": "stated"}
        unread |= {} if "report" in arm.terms else {"impression": "written"}
        unread |= {} if config.full_compute_ratio > 1 else {"long": False}
        if arm.kind == "trained" and (other := seen.setdefault(arm.model_copy(update=unread), name)) != name:
            return other, name
    return None
