"""A new student from its settings."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, LlamaConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from kdistill.errors import WeightsError
from kdistill.observations import OBSERVATION_TERMS, OBSERVATIONS
from kdistill.student.config import (
    CnnVisionConfig,
    LlamaLanguageConfig,
    PretrainedPart,
    ReasoningInput,
    StudentConfig,
    TeacherLanguageConfig,
    TextOrder,
    TransformersLanguageConfig,
    TransformersVisionConfig,
)
from kdistill.student.configuration import KDistillConfig
from kdistill.student.modeling import KDistillStudent
from kdistill.student.pretrained import image_normalisation, load_language, load_vision
from kdistill.student.text import encode_plain, token_ids
from kdistill.student.vision import TransformersVision

logger = logging.getLogger(__name__)

#: Longest prefix and text together; RoPE needs no table, so a generous bound costs nothing.
MAX_POSITIONS = 1024


def build_model(
    settings: StudentConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    teacher_model_dir: Path | None,
    seed: int,
    reasoning_input: ReasoningInput = "observations",
    text_order: TextOrder = "apart",
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
        text_order: How report and rationale follow each other.
        teacher_hidden_size: Width of the teacher's statement embeddings, for the semantic term; 0 for none.
        query_embeddings: float32 [14, D_teacher] that the queries begin at (`query_init: literature`); every other
            weight is as without them.

    Raises:
        WeightsError: Weights named in the settings are unsafe, damaged, missing, or of a model that cannot be used.
        ConfigError: Adapters for layers that the model does not have.
        EnvironmentFault: Adapters without peft.
    """
    torch.manual_seed(seed)
    language = _pretrained_language(settings, tokenizer, teacher_model_dir)
    vision = _pretrained_vision(settings)
    config = _configuration(settings, tokenizer, language, vision)
    config.update(
        {"reasoning_input": reasoning_input, "text_order": text_order, "teacher_hidden_size": teacher_hidden_size}
    )
    model = KDistillStudent(config)
    _put_in(model, tokenizer, language, vision)
    if query_embeddings is not None:
        model.queries.start_from(torch.from_numpy(query_embeddings))
    _adapt(model, settings)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-arg]  # the library's wrapper of Module.to


def _configuration(
    settings: StudentConfig,
    tokenizer: PreTrainedTokenizerBase,
    language: PreTrainedModel | None,
    vision: PreTrainedModel | None,
) -> KDistillConfig:
    """What the settings say of every arm's student; a pretrained part describes itself."""
    return KDistillConfig(
        vision=_vision_settings(settings, vision),
        patches=settings.patches.model_dump(),
        language=(language.config if language is not None else _llama(settings, tokenizer)).to_dict(),
        hidden_size=settings.hidden_size,
        image_size_px=settings.image_size_px,
        pixel_mean=settings.pixel_mean,
        pixel_std=settings.pixel_std,
        pooled_patch_grid=settings.pooled_patch_grid,
        dropout=settings.dropout,
        conclusions=settings.conclusions,
        text_gradient=settings.text_gradient,
        side_source=settings.side_source,
        token_ids=token_ids(tokenizer),
    )


def _put_in(
    model: KDistillStudent,
    tokenizer: PreTrainedTokenizerBase,
    language: PreTrainedModel | None,
    vision: PreTrainedModel | None,
) -> None:
    """Pretrained weights in the place of random ones; states that begin at the decoder's own names."""
    if language is not None:
        model.language.load_state_dict(language.state_dict())
    if model.observation_prefix is not None:
        model.observation_prefix.start_from_names(name_embeddings(model, tokenizer))
    if vision is not None:
        assert isinstance(model.vision, TransformersVision)
        model.vision.model.load_state_dict(vision.state_dict())


def name_embeddings(model: KDistillStudent, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """The decoder's mean input embedding of the tokens of each observation's name [L, language width]."""
    table = model.get_input_embeddings()
    names = [encode_plain(tokenizer, f" {OBSERVATION_TERMS[name]}") for name in OBSERVATIONS]
    return torch.stack([table(torch.tensor(tokens)).detach().mean(0) for tokens in names])


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
            return load_language(str(teacher_model_dir), len(tokenizer))
        case TransformersLanguageConfig(path=path):
            return load_language(path, len(tokenizer))


def _pretrained_vision(settings: StudentConfig) -> PreTrainedModel | None:
    if not isinstance(settings.vision, TransformersVisionConfig) or settings.vision.path is None:
        return None
    return load_vision(settings.vision.path, settings.image_size_px)


def _vision_settings(settings: StudentConfig, pretrained: PreTrainedModel | None) -> dict[str, Any]:
    match settings.vision:
        case CnnVisionConfig():
            return settings.vision.model_dump()
        case TransformersVisionConfig(config=inline, trainable=trainable):
            if pretrained is None:
                assert inline is not None
                config = AutoConfig.for_model(**inline).to_dict()
                return {"kind": "transformers", "config": config, "trainable": trainable}
            described = {"kind": "transformers", "config": pretrained.config.to_dict(), "trainable": trainable}
            return {**described, **_normalisation(settings.vision, int(pretrained.config.num_channels))}


def _normalisation(vision: TransformersVisionConfig, num_channels: int) -> dict[str, list[float]]:
    if vision.path is None or vision.normalisation == "recipe":
        return {}
    found = image_normalisation(vision.path, num_channels)
    if found is None:
        logger.info("no preprocessing is saved with %s: the recipe's pixel_mean and pixel_std are used", vision.path)
        return {}
    return {"image_mean": found[0], "image_std": found[1]}


def _adapt(model: KDistillStudent, settings: StudentConfig) -> None:
    """Adapters and freezing, after the weights are in place (the encoder froze itself where it is not trained)."""
    if isinstance(settings.vision, TransformersVisionConfig) and settings.vision.lora is not None:
        model.add_adapters("vision", settings.vision.lora)
    if isinstance(settings.language, PretrainedPart):
        if settings.language.lora is not None:
            model.add_adapters("language", settings.language.lora)
        elif not settings.language.trainable:
            model.freeze_language()
