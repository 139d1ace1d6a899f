"""KDistillConfig: what config.json of a saved student holds."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PretrainedConfig

from kdistill.observations import NUM_OBSERVATIONS
from kdistill.student.config import CoarseAndFinePatches, ConclusionKind, SideSource, TextOrder


class KDistillConfig(PretrainedConfig):
    """Configuration of `KDistillStudent`.

    Args:
        vision: `{"kind": "cnn", ...CnnVisionConfig fields}` or `{"kind": "transformers", "config": {...},
            "trainable": bool}`, with "image_mean" and "image_std" of each channel (of pixels in 0..1) where the
            checkpoint brought its own normalisation.
        patches: StudentConfig.patches as a dictionary; `{"kind": "single"}` where it is missing.
        language: A transformers causal LM configuration as a dictionary, with its model_type.
        hidden_size: Width D of an observation embedding.
        image_size_px: Edge of the input image, in pixels.
        pixel_mean: Mean subtracted from pixels scaled to 0..1.
        pixel_std: Standard deviation that divides them.
        reasoning_input: What the decoder reads: "observations", "patches" or "both".
        pooled_patch_grid: Edge of the pooled patch grid in the prefix.
        dropout: Dropout on the observation embeddings.
        conclusions: What the prefix says of the label head's conclusions: "none", "soft" or "decided".
        text_order: Whether report and rationale are "apart", or one text: "rationale_first" or "report_first".
        side_source: What an observation's side is read from: its "embedding", also its "map", or "none" (not at all).
        text_gradient: Whether losses on texts reach the vision side.
        teacher_hidden_size: Width of the teacher's statement embeddings (semantic projection); 0: no projection.
        token_ids: Ids of "report", "impression", "rationale" (they start a section) and "eos" in the tokenizer.
        num_observations: L.
    """

    model_type = "kdistill"

    def __init__(
        self,
        vision: dict[str, Any] | None = None,
        language: dict[str, Any] | None = None,
        hidden_size: int = 128,
        image_size_px: int = 128,
        pixel_mean: float = 0.45,
        pixel_std: float = 0.25,
        reasoning_input: str = "observations",
        pooled_patch_grid: int = 4,
        dropout: float = 0.0,
        conclusions: ConclusionKind = "none",
        text_order: TextOrder = "apart",
        side_source: SideSource = "embedding",
        text_gradient: bool = True,
        teacher_hidden_size: int = 0,
        token_ids: dict[str, int] | None = None,
        num_observations: int = NUM_OBSERVATIONS,
        patches: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.vision: dict[str, Any] = vision if vision is not None else {"kind": "cnn"}
        self.patches: dict[str, Any] = patches if patches is not None else {"kind": "single"}
        self.language = language if language is not None else {}
        self.hidden_size = hidden_size
        self.image_size_px = image_size_px
        self.pixel_mean = pixel_mean
        self.pixel_std = pixel_std
        self.reasoning_input = reasoning_input
        self.pooled_patch_grid = pooled_patch_grid
        self.dropout = dropout
        self.conclusions = conclusions
        self.text_order = text_order
        self.side_source = side_source
        self.text_gradient = text_gradient
        self.teacher_hidden_size = teacher_hidden_size
        self.token_ids = token_ids if token_ids is not None else {}
        self.num_observations = num_observations
        super().__init__(**kwargs)

    def coarse_and_fine(self) -> CoarseAndFinePatches | None:
        """The settings of a student with two grids of patches; None for one with a single grid."""
        return None if self.patches["kind"] == "single" else CoarseAndFinePatches.model_validate(self.patches)

    def language_config(self) -> PretrainedConfig:
        """The decoder's own transformers configuration."""
        return AutoConfig.for_model(**self.language)


AutoConfig.register("kdistill", KDistillConfig)
