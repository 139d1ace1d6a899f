"""A new student from its settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from kdistill.errors import WeightsError
from kdistill.student.config import (
    CnnVisionConfig,
    LlamaLanguageConfig,
    ReasoningInput,
    StudentConfig,
    TeacherLanguageConfig,
    TransformersLanguageConfig,
    TransformersVisionConfig,
)
from kdistill.student.configuration import KDistillConfig
from kdistill.student.modeling import KDistillStudent
from kdistill.student.text import token_ids
from kdistill.student.vision import TransformersVision
from kdistill.weights import check_weights_dir

#: Longest prefix and text together; RoPE needs no table, so a generous bound costs nothing.
MAX_POSITIONS = 1024


def build_model(
    settings: StudentConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    teacher_model_dir: Path | None,
    seed: int,
    reasoning_input: ReasoningInput = "observations",
    teacher_hidden_size: int = 0,
    query_embeddings: np.ndarray | None = None,
) -> KDistillStudent:
    """Build a student; equal arguments give equal weights.

    Args:
        settings: Vision encoder, decoder and sizes.
        tokenizer: Holds the section tokens; the decoder's embeddings get its size.
        teacher_model_dir: Weights that `language.kind: teacher` starts from.
        seed: Seed of everything random.
        reasoning_input: What the decoder reads.
        teacher_hidden_size: Width of the teacher's statement embeddings, for the semantic term; 0 for none.
        query_embeddings: float32 [14, D_teacher] that the queries begin at (`query_init: literature`); every other
            weight is as without them.

    Raises:
        WeightsError: Weights named in the settings are unsafe, damaged or missing.
    """
    torch.manual_seed(seed)
    language = _pretrained_language(settings, tokenizer, teacher_model_dir)
    vision = _pretrained_vision(settings)
    config = KDistillConfig(
        vision=_vision_settings(settings, vision),
        language=(language.config if language is not None else _llama(settings, tokenizer)).to_dict(),
        hidden_size=settings.hidden_size,
        image_size_px=settings.image_size_px,
        pixel_mean=settings.pixel_mean,
        pixel_std=settings.pixel_std,
        reasoning_input=reasoning_input,
        pooled_patch_grid=settings.pooled_patch_grid,
        dropout=settings.dropout,
        conclusions=settings.conclusions,
        text_gradient=settings.text_gradient,
        teacher_hidden_size=teacher_hidden_size,
        token_ids=token_ids(tokenizer),
    )
    model = KDistillStudent(config)
    if language is not None:
        model.language.load_state_dict(language.state_dict())
    if vision is not None:
        assert isinstance(model.vision, TransformersVision)
        model.vision.model.load_state_dict(vision.state_dict())
    if query_embeddings is not None:
        model.queries.start_from(torch.from_numpy(query_embeddings))
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-arg]  # the library's wrapper of Module.to


def _llama(settings: StudentConfig, tokenizer: PreTrainedTokenizerBase) -> PretrainedConfig:
    language = settings.language
    assert isinstance(language, LlamaLanguageConfig)
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=language.hidden_size,
        num_hidden_layers=language.num_layers,
        num_attention_heads=language.num_heads,
        intermediate_size=language.intermediate_size,
        tie_word_embeddings=language.tie_embeddings,
        # The library's 0.02 is meant for widths of thousands; at 128 it leaves attention flat for hundreds of steps.
        initializer_range=language.hidden_size**-0.5,
        max_position_embeddings=MAX_POSITIONS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _pretrained_language(
    settings: StudentConfig, tokenizer: PreTrainedTokenizerBase, teacher_model_dir: Path | None
) -> PreTrainedModel | None:
    match settings.language:
        case LlamaLanguageConfig():
            return None
        case TeacherLanguageConfig():
            if teacher_model_dir is None:
                raise WeightsError("language.kind is teacher, and there is no teacher", where="student")
            source = str(teacher_model_dir)
        case TransformersLanguageConfig(path=path):
            source = path
    model = AutoModelForCausalLM.from_pretrained(**_from(source), dtype=torch.float32)
    embeddings = model.get_input_embeddings()
    assert isinstance(embeddings, nn.Embedding)
    if embeddings.num_embeddings < len(tokenizer):
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return model


def _pretrained_vision(settings: StudentConfig) -> PreTrainedModel | None:
    if not isinstance(settings.vision, TransformersVisionConfig) or settings.vision.path is None:
        return None
    return _vision_tower(AutoModel.from_pretrained(**_from(settings.vision.path), dtype=torch.float32))


def _vision_tower(model: PreTrainedModel) -> PreTrainedModel:
    """The image side of a two-tower model such as SigLIP; any other model is its own image side."""
    tower = model.vision_model if "vision_config" in model.config.to_dict() else model
    assert isinstance(tower, PreTrainedModel)
    return tower


def _from(source: str) -> dict[str, Any]:
    """Loading arguments: a local folder is checked first and never asks the network."""
    local = Path(source).is_dir()
    if local:
        check_weights_dir(Path(source))
    return {"pretrained_model_name_or_path": source, "local_files_only": local, "use_safetensors": True}


def _vision_settings(settings: StudentConfig, pretrained: PreTrainedModel | None) -> dict[str, Any]:
    match settings.vision:
        case CnnVisionConfig():
            return settings.vision.model_dump()
        case TransformersVisionConfig(config=inline, trainable=trainable):
            if pretrained is not None:
                return {"kind": "transformers", "config": pretrained.config.to_dict(), "trainable": trainable}
            assert inline is not None
            config = AutoConfig.for_model(**inline).to_dict()
            return {"kind": "transformers", "config": config, "trainable": trainable}
