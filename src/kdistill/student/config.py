"""Settings of the student. Imports neither torch nor transformers."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from kdistill.config import ConfigModel

ReasoningInput = Literal["observations", "patches", "both"]
ConclusionKind = Literal["none", "soft", "decided"]
SideSource = Literal["embedding", "map", "none"]
TextOrder = Literal["apart", "rationale_first", "report_first"]

#: Pixels from one patch of the small encoder to the next.
SMALL_CNN_STRIDE: Final = 8


class CnnVisionConfig(ConfigModel):
    """A small convolutional encoder from scratch with local receptive fields.

    Stem 7x7 stride 4, one 3x3 convolution at that scale, one 3x3 stride 2, then residual blocks: stride 8 in all, so
    128 px give a 16 x 16 grid, and a patch token sees at most 23 + 16 x num_blocks pixels.
    """

    kind: Literal["cnn"] = "cnn"
    stem_channels: int = Field(default=32, ge=4, description="Channels after the stem (stride 4).")
    middle_channels: int = Field(default=48, ge=4, description="Channels of the second convolution (stride 4).")
    channels: int = Field(default=128, ge=8, description="Channels of the patch features (stride 8).")
    num_blocks: int = Field(default=2, ge=0, description="Residual 3x3 blocks on the patch grid.")
    norm: Literal["batch", "channel"] = Field(
        default="batch",
        description="batch: batch statistics, learns faster, needs micro_batch = batch_size; channel: LayerNorm over "
        "channels, the same loss however a batch is cut.",
    )


class LoraConfig(ConfigModel):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) beside frozen weights; merged into them after training."""

    rank: int = Field(default=16, ge=1, description="Rank of the adapters.")
    alpha: float = Field(default=32.0, gt=0, description="Scale of the adapters: alpha / rank times their product.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout before the adapters.")
    target_modules: str | tuple[str, ...] = Field(
        default="all-linear",
        description="all-linear (but not the output layer); or ends of module names; or one regular expression.",
    )


class PretrainedPart(ConfigModel):
    """How much of a pretrained encoder or decoder is trained."""

    trainable: bool = Field(default=True, description="Train this part too; false freezes it.")
    lora: LoraConfig | None = Field(default=None, description="Train adapters in place of the part's own weights.")

    @model_validator(mode="after")
    def _adapters_are_trained(self) -> PretrainedPart:
        if self.lora is not None and not self.trainable:
            raise ValueError("lora trains adapters (its base is frozen as it is): leave out trainable: false")
        return self


class TransformersVisionConfig(PretrainedPart):
    """Any vision model of transformers, pretrained (`path`) or random (`config`)."""

    kind: Literal["transformers"] = "transformers"
    path: str | None = Field(default=None, description="Hub name or local folder (safetensors) of a vision model.")
    config: dict[str, Any] | None = Field(
        default=None, description="Inline transformers configuration (with model_type) for a random start."
    )
    normalisation: Literal["checkpoint", "recipe"] = Field(
        default="checkpoint",
        description="checkpoint: mean and deviation of each channel from the preprocessor_config.json beside the "
        "weights, the recipe's where there is none; recipe: always pixel_mean and pixel_std.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> TransformersVisionConfig:
        if (self.path is None) == (self.config is None):
            raise ValueError("give either path or config")
        return self


class LlamaLanguageConfig(ConfigModel):
    """A small Llama decoder from scratch over the teacher's vocabulary."""

    kind: Literal["llama"] = "llama"
    hidden_size: int = Field(default=128, ge=8, description="Width of the residual stream.")
    num_layers: int = Field(default=2, ge=1, description="Transformer blocks.")
    num_heads: int = Field(default=4, ge=1, description="Attention heads; divides hidden_size.")
    intermediate_size: int = Field(default=256, ge=8, description="Width of the gated feed-forward layer.")
    tie_embeddings: bool = Field(default=True, description="Share input and output embeddings.")


class TeacherLanguageConfig(PretrainedPart):
    """The decoder starts from the teacher's weights (a copy: the teacher itself never changes)."""

    kind: Literal["teacher"] = "teacher"


class TransformersLanguageConfig(PretrainedPart):
    """Any causal LM of transformers with its own tokenizer (the token term then needs the teacher's vocabulary)."""

    kind: Literal["transformers"] = "transformers"
    path: str = Field(description="Hub name or local folder (safetensors) of a causal language model and tokenizer.")


class SinglePatches(ConfigModel):
    """One grid of patches, the encoder's last: evidence, value and context in one."""

    kind: Literal["single"] = "single"


class CoarseAndFinePatches(ConfigModel):
    """Evidence from a fine grid of local features; wider context from the coarse grid only turns it up or down.

    The evidence of a patch, and what is gathered there, come from an earlier and finer stage of the encoder. The last
    stage, on the coarse grid, gives each observation a bounded scale and shift of the evidence at the same place (see
    `queries.ContextGate`): it carries nothing into an embedding. docs/coarse_fine.md says what cannot leak, and why.
    """

    kind: Literal["coarse_and_fine"]
    modulation: float = Field(
        default=0.5,
        ge=0,
        lt=1,
        description="m: context moves an evidence s by at most m (|s| + 1), and never turns its sign by its scale; 0: "
        "no context.",
    )
    fine_channels: int = Field(default=64, ge=4, description="Channels of the small encoder's fine grid (stride 4).")
    fine_blocks: int = Field(
        default=2,
        ge=0,
        description="Residual 3x3 blocks on that grid: a fine patch sees 15 + 8 x fine_blocks pixels.",
    )
    fine_stage: int = Field(
        default=-2,
        le=-2,
        description="Which grid of a staged encoder of transformers is the fine one, counted from its last (-1): -2 "
        "has twice the last one's resolution as a rule, -3 four times, and smaller receptive fields.",
    )


VisionConfig = Annotated[CnnVisionConfig | TransformersVisionConfig, Field(discriminator="kind")]
PatchesConfig = Annotated[SinglePatches | CoarseAndFinePatches, Field(discriminator="kind")]
LanguageConfig = Annotated[
    LlamaLanguageConfig | TeacherLanguageConfig | TransformersLanguageConfig, Field(discriminator="kind")
]


class StudentConfig(ConfigModel):
    """The vision-language student: encoder, observation queries, decoder."""

    vision: VisionConfig = Field(default=CnnVisionConfig(), description="Image -> patch features.")
    patches: PatchesConfig = Field(
        default=SinglePatches(), description="Patch features -> what observations attend to."
    )
    language: LanguageConfig = Field(default=LlamaLanguageConfig(), description="Prefix -> text.")
    hidden_size: int = Field(default=128, ge=8, description="Width D of an observation embedding.")
    image_size_px: int = Field(default=128, ge=16, description="Edge of the square input image, in pixels.")
    pixel_mean: float = Field(default=0.45, description="Subtracted from pixels scaled to 0..1.")
    pixel_std: float = Field(default=0.25, gt=0, description="Divides pixels scaled to 0..1 after the mean.")
    pooled_patch_grid: int = Field(
        default=4, ge=1, description="Edge of the patch grid that a decoder reads under `patches` and `both`."
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout on the observation embeddings.")
    conclusions: ConclusionKind = Field(
        default="decided",
        description="What the decoder is told of the label head's conclusions, in each observation's token: nothing; "
        "soft: its logit; decided: present or absent at the threshold, and the side (in training what is stated).",
    )
    text_order: TextOrder = Field(
        default="apart",
        description="Report and rationale: two texts that do not see each other, or one, the second after the first.",
    )
    side_source: SideSource = Field(
        default="embedding",
        description="What an observation's side is read from: its embedding, or also in which half its map lies (map); "
        "none: no side is read, nor told to the decoder (without the side term).",
    )
    query_init: Literal["random", "literature"] = Field(
        default="random",
        description="Where the observation queries begin: at random, or at the teacher's embedding of what the "
        "literature says an observation looks like (only arms that learn from the teacher's text; others at random).",
    )
    text_gradient: bool = Field(
        default=True,
        description="Text losses train the vision side too; false: their gradient stops before the decoder's prefix.",
    )

    @model_validator(mode="after")
    def _patches_fit_the_encoder(self) -> StudentConfig:
        if isinstance(self.patches, CoarseAndFinePatches):
            refuse_unread(self.patches, self.vision, self.image_size_px)
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what came later and is at its default: runs that were begun before it existed keep their hash."""
        found: dict[str, Any] = handler(self)
        if self.patches == SinglePatches():
            found.pop("patches", None)
        if self.side_source == "embedding":
            found.pop("side_source", None)
        return found


def refuse_unread(patches: CoarseAndFinePatches, vision: VisionConfig, image_size_px: int) -> None:
    """Keys that this encoder does not read are a mistake, as is an image that the two grids do not share.

    Raises:
        ValueError: There is one.
    """
    cnn = isinstance(vision, CnnVisionConfig)
    if cnn and image_size_px % SMALL_CNN_STRIDE:
        raise ValueError(f"patches: coarse_and_fine needs an image_size_px that is a multiple of {SMALL_CNN_STRIDE}")
    for key in ("fine_stage",) if cnn else ("fine_channels", "fine_blocks"):
        if patches.model_dump()[key] != CoarseAndFinePatches.model_fields[key].default:
            raise ValueError(f"patches.{key} is not read with vision.kind {vision.kind}: leave it out")
