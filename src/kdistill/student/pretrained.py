"""Pretrained encoders and decoders: checked before loading, refused by name where the student cannot drive them."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, ImageProcessingMixin, PreTrainedModel
from transformers.utils import logging as transformers_logging

from kdistill.errors import WeightsError
from kdistill.student.vision import TransformersVision, grid_side
from kdistill.weights import check_weights_dir

logger = logging.getLogger(__name__)

#: Parts of a tensor's name that stand for layers after the patch features: a checkpoint may lack them.
_UNREAD: Final = frozenset({"pooler", "head", "mask_token"})
_PREPROCESSING: Final = ("preprocessor_config.json", "processor_config.json")


def load_language(source: str, num_tokens: int) -> PreTrainedModel:
    """A causal LM by local folder or hub name; its embeddings grow to `num_tokens` if they are fewer.

    Raises:
        WeightsError: Unsafe, damaged, incomplete, or no causal LM.
    """
    model = _load(AutoModelForCausalLM, source)
    embeddings = model.get_input_embeddings()
    assert isinstance(embeddings, nn.Embedding)
    if embeddings.num_embeddings < num_tokens:
        model.resize_token_embeddings(num_tokens, mean_resizing=False)
    return model


def load_vision(source: str, image_size_px: int) -> PreTrainedModel:
    """A vision model by local folder or hub name; of a two-tower model such as SigLIP its image side.

    Raises:
        WeightsError: Unsafe, damaged, incomplete, not driven by images alone, or not by images of this size.
    """
    tower = _vision_tower(_load(AutoModel, source))
    refuse_other_inputs(tower, source)
    refuse_unreadable(tower, image_size_px, source)
    return tower


def _vision_tower(model: PreTrainedModel) -> PreTrainedModel:
    tower = model.vision_model if "vision_config" in model.config.to_dict() else model
    assert isinstance(tower, PreTrainedModel)
    return tower


def refuse_other_inputs(model: PreTrainedModel, source: str) -> None:
    """The student shows an encoder images, [B, C, S, S], and nothing else.

    Raises:
        WeightsError: It needs more, as the patch lists with spatial shapes of SigLIP 2 NaFlex.
    """
    needed = [
        parameter.name
        for parameter in inspect.signature(model.forward).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
    if others := [name for name in needed if name != "pixel_values"]:
        raise WeightsError(
            f"{model.config.model_type} is not driven by images alone, it needs {', '.join(others)}",
            where=source,
            remedy="Take an encoder of images of one size. SigLIP 2 has such checkpoints beside its NaFlex ones: "
            "they are of model_type siglip, as siglip2-base-patch16-256.",
        )


def refuse_unreadable(model: PreTrainedModel, image_size_px: int, source: str) -> None:
    """Show the encoder one empty image of the student's size.

    Raises:
        WeightsError: It cannot read that size, or gives no grid of patches.
    """
    vision = TransformersVision(model)
    try:
        grid_side(vision, image_size_px)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise WeightsError(
            f"the encoder ({model.config.model_type}) cannot read images of {image_size_px} px: {error}",
            where=source,
            remedy=f"Its own size is {vision.image_size_px or 'not stated'}: set student.image_size_px to it.",
        ) from error


def image_normalisation(source: str, num_channels: int) -> tuple[list[float], list[float]] | None:
    """Mean and standard deviation of each channel, for pixels in 0..1, from the preprocessing saved with the weights.

    The file's own order is rescale, then normalise: (rescale_factor p - image_mean) / image_std with p in 0..255. Keys
    that are missing mean what they mean to the library: rescale by 1/255, normalise.

    Returns:
        The two lists, or None where there is no such file.

    Raises:
        WeightsError: The file is damaged, or holds no usable mean and deviation.
    """
    settings = _preprocessing(source)
    if settings is None:
        return None
    factor = 255.0 * float(settings.get("rescale_factor", 1 / 255)) if settings.get("do_rescale", True) else 255.0
    mean, std = [0.0] * num_channels, [1.0] * num_channels
    if settings.get("do_normalize", True):
        mean, std = (_channels(settings.get(key), num_channels) for key in ("image_mean", "image_std"))
    usable = mean and std and factor > 0 and all(map(math.isfinite, (*mean, *std))) and min(std) > 0
    if not usable:
        raise WeightsError(
            f"no usable image_mean and image_std for {num_channels} channels in the saved preprocessing",
            where=source,
            remedy="Mend the file, or set student.vision.normalisation: recipe.",
        )
    return [value / factor for value in mean], [value / factor for value in std]


def _channels(value: Any, num_channels: int) -> list[float]:
    values = [float(item) for item in value] if isinstance(value, list | tuple) else [value] * (value is not None)
    return values * num_channels if len(values) == 1 else values if len(values) == num_channels else []


def _preprocessing(source: str) -> dict[str, Any] | None:
    """The image processor's settings; None where a folder or repository has none."""
    folder = Path(source)
    try:
        settings, _ = ImageProcessingMixin.get_image_processor_dict(source, local_files_only=folder.is_dir())
    except OSError as error:
        if not any((folder / name).is_file() for name in _PREPROCESSING):
            return None
        raise WeightsError(
            "the preprocessing saved with the weights cannot be read",
            where=source,
            remedy="Copy the folder again, or set student.vision.normalisation: recipe.",
        ) from error
    return settings


def _load(library_class: Any, source: str) -> PreTrainedModel:
    """Load with the library; a local folder is checked first and never asks the network."""
    local = Path(source).is_dir()
    if local:
        check_weights_dir(Path(source))
    transformers_logging.disable_progress_bar()  # only cli/ prints
    try:
        if torch.get_default_device().type == "meta":  # an estimate of a run counts parameters and loads none
            return library_class.from_config(AutoConfig.from_pretrained(source, local_files_only=local))
        model, info = library_class.from_pretrained(
            source, local_files_only=local, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise WeightsError(
            f"no model could be loaded ({type(error).__name__}: {str(error).splitlines()[0]})",
            where=source,
            remedy="Give a folder with config.json and model.safetensors as save_pretrained writes it, or a hub name.",
        ) from error
    assert isinstance(model, PreTrainedModel)
    _refuse_missing(info["missing_keys"], source, two_towers="vision_config" in model.config.to_dict())
    return model


def _refuse_missing(names: Iterable[str], source: str, *, two_towers: bool) -> None:
    """The library fills what a file lacks with random numbers and says so in a log line: such a model looks alive."""
    missing = sorted(
        name
        for name in names
        if not _UNREAD & set(name.split(".")) and (name.startswith("vision_model.") or not two_towers)
    )
    if missing:
        raise WeightsError(
            f"tensor {missing[0]!r} and {len(missing) - 1} more are missing",
            where=source,
            remedy="Copy the folder again, in full; its config.json must be of the same model as its weights.",
        )
