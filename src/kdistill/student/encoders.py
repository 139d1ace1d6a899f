"""From the settings of a student to its encoder."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel

from kdistill.errors import WeightsError
from kdistill.student.coarse_fine import CoarseAndFineCnn, StagedVision
from kdistill.student.config import CnnVisionConfig
from kdistill.student.configuration import KDistillConfig
from kdistill.student.vision import SmallCnn, TransformersVision


def build_vision(config: KDistillConfig) -> SmallCnn | TransformersVision:
    """The encoder that `KDistillConfig.vision` and `.patches` describe, with random weights.

    Raises:
        WeightsError: The kind is unknown.
    """
    settings = config.vision
    fine = config.coarse_and_fine()
    match settings["kind"]:
        case "cnn":
            cnn = CnnVisionConfig.model_validate(settings)
            return SmallCnn(cnn) if fine is None else CoarseAndFineCnn(cnn, fine)
        case "transformers":
            model = AutoModel.from_config(AutoConfig.for_model(**settings["config"]))
            trainable, normalisation = settings["trainable"], _normalisation(config)
            if fine is None:
                return TransformersVision(model, trainable=trainable, normalisation=normalisation)
            size = config.image_size_px
            return StagedVision(model, fine.fine_stage, size, trainable=trainable, normalisation=normalisation)
    raise WeightsError(f"unknown vision encoder {settings['kind']!r}", where="config.json")


def _normalisation(config: KDistillConfig) -> tuple[list[float], list[float]] | None:
    if "image_mean" not in config.vision:
        return None
    mean, std = config.vision["image_mean"], config.vision["image_std"]
    scale = [config.pixel_std / deviation for deviation in std]
    return scale, [(config.pixel_mean - centre) / deviation for centre, deviation in zip(mean, std, strict=True)]
