"""A published student behind the `ImageReader` joint: model, tokenizer, thresholds and settings of one folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from kdistill.artifact import sha256_file
from kdistill.config import parse_yaml, validate
from kdistill.distillation.config import ARMS, DistillationConfig
from kdistill.distillation.predict import side_names
from kdistill.errors import InputError
from kdistill.explain.reading import Reading
from kdistill.records import Side
from kdistill.student.images import blank, pixel_values
from kdistill.student.modeling import KDistillStudent, load_student
from kdistill.student.queries import ObservationOutput
from kdistill.student.thresholds import load_thresholds
from kdistill.student.writing import write_texts
from kdistill.weights import weight_files

MODEL: Final = "model"


class ReadingSettings(NamedTuple):
    """How a student has to be asked, so that it answers as it did when its predictions were published.

    Attributes:
        writes_rationale: Whether the arm was trained to write one; any other answers with noise.
        max_new_tokens: Longest section.
        blanked: It is shown mean grey whatever the image (the blank-image control).
    """

    writes_rationale: bool
    max_new_tokens: int
    blanked: bool = False


class StudentReader:
    """Reads images with one trained student.

    Args:
        name: What the student is called on pages and in exports.
        model: The student, in evaluation mode.
        tokenizer: Its tokenizer.
        thresholds: One for each observation; None for a student without a trained label head.
        settings: How it is asked.
    """

    def __init__(
        self,
        name: str,
        model: KDistillStudent,
        tokenizer: PreTrainedTokenizerBase,
        thresholds: tuple[float, ...] | None,
        settings: ReadingSettings,
    ) -> None:
        self.name, self.model, self.tokenizer = name, model, tokenizer
        self.thresholds, self.settings = thresholds, settings

    @property
    def size_px(self) -> int:
        """Side of the images that the student reads."""
        return int(self.model.config.image_size_px)

    def shown(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What the student sees of images, uint8 [B, S, S]: mean grey for the blank-image control."""
        return blank(images, self.model.config) if self.settings.blanked else images

    @torch.no_grad()
    def read(self, images: NDArray[np.uint8]) -> Sequence[Reading]:
        """Read a batch of canonical images, uint8 [B, S, S]."""
        encoded = self.model.encode(pixel_values(self.shown(images), self.model.config))
        texts = write_texts(
            self.model,
            self.tokenizer,
            encoded.prefix,
            writes_rationale=self.settings.writes_rationale,
            max_new_tokens=self.settings.max_new_tokens,
        )
        if self.thresholds is None or encoded.observations is None:
            return [Reading(None, None, None, *text) for text in texts]
        seen = encoded.observations
        probabilities = seen.logits.double().sigmoid().numpy()
        maps = square_maps(seen.attention.float().numpy())
        return [Reading(p, s, m, *text) for p, s, m, text in zip(probabilities, _sides(seen), maps, texts, strict=True)]


def _sides(seen: ObservationOutput) -> Sequence[tuple[Side | None, ...] | None]:
    """Side of each observation of each image; None for an image where the student reads no sides."""
    if seen.side_logits is None:
        return [None] * len(seen.logits)
    rows = seen.side_logits.argmax(-1).numpy()
    return [tuple(cast(Side, name) if name else None for name in side_names(row)) for row in rows]


def square_maps(attention: NDArray[np.float32]) -> NDArray[np.float32]:
    """[B, L, P] -> [B, L, G, G] with G = sqrt(P)."""
    grid = round(attention.shape[-1] ** 0.5)
    return attention.reshape(*attention.shape[:-1], grid, grid)


def weights_hash(model_dir: Path) -> str:
    """First 12 hexadecimal digits of the SHA-256 of the first weight file: enough to tell two students apart."""
    return sha256_file(weight_files(model_dir)[0])[:12]


def load_reader(student_dir: Path) -> StudentReader:
    """Load a published student (`student/<arm>/seed-<n>` of a run).

    Raises:
        InputError: The folder holds no trained student (a reference arm has no model of its own).
        WeightsError: The weights are unsafe or damaged, or the thresholds belong to others.
    """
    model_dir, where = student_dir / MODEL, "/".join(student_dir.parts[-2:])
    if not model_dir.is_dir():
        raise InputError("has no model", where=where, remedy="Choose a trained arm, for example --arm full.")
    saved = parse_yaml((student_dir / "config.yaml").read_text(encoding="utf-8"), where=f"{where}/config.yaml")
    config = validate(DistillationConfig, saved["distillation"], where=f"{where}/config.yaml")
    arm = ARMS[saved["arm"]]
    thresholds = load_thresholds(model_dir)
    return StudentReader(
        f"{saved['arm']}, seed {saved['seed']}, weights {weights_hash(model_dir)}",
        load_student(model_dir),
        AutoTokenizer.from_pretrained(model_dir, local_files_only=True),
        thresholds.values if thresholds else None,
        ReadingSettings(
            writes_rationale=bool({"rationale", "token"} & set(arm.terms)),
            max_new_tokens=config.max_new_tokens,
            blanked=arm.blank_image,
        ),
    )
