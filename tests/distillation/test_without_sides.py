"""A student that reads no sides (`student.side_source: none`): none is told, predicted, written or made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoTokenizer

from kdistill.distillation.assembly import refuse_unfounded
from kdistill.distillation.config import ARMS, ArmConfig, DistillationConfig, TermWeights
from kdistill.errors import ConfigError
from kdistill.explain.student_reader import ReadingSettings, StudentReader
from kdistill.student.conclusions import Conclusions
from kdistill.student.config import StudentConfig
from kdistill.student.modeling import load_student
from tests.student.small import pixels, small_student

from .test_stage import build
from .toy import SIZE, ToyDirs

NO_SIDES = {"side_source": "none"}


@pytest.fixture(scope="module")
def run(
    world: ToyDirs, tiny: StudentConfig, short: DistillationConfig, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """`label` without the side term, and the reference that is made from it."""
    root = tmp_path_factory.mktemp("without_sides")
    student = tiny.model_copy(update=NO_SIDES)
    config = short.model_copy(update={"weights": TermWeights(side=0)})
    build(world, student, config, "label", root / "label")
    build(world, student, config, "classifier_template", root / "template", root / "label")
    return root


@pytest.mark.parametrize("arm", ["label", "template"])
def test_predictions_have_probabilities_and_no_sides(run: Path, arm: str) -> None:
    rows = pq.read_table(run / arm / "predictions.parquet").to_pylist()
    assert rows and all(row["sides"] is None and len(row["probabilities"]) == 14 for row in rows)
    if arm == "template":
        said = " ".join(row["findings"] for row in rows).lower()
        assert said.strip() and not {"left", "right", "bilateral"} & set(said.replace(".", " ").split())


def test_an_explanation_has_no_side(run: Path) -> None:
    model = run / "label" / "model"
    settings = ReadingSettings(writes_rationale=False, max_new_tokens=4)
    reader = StudentReader("label", load_student(model), AutoTokenizer.from_pretrained(model), (0.5,) * 14, settings)
    (reading,) = reader.read(np.zeros((1, SIZE, SIZE), dtype=np.uint8))
    assert reading.probabilities is not None and reading.sides is None


def test_the_decoder_is_told_states_and_no_side() -> None:
    told = small_student(conclusions="decided")
    untold = small_student(conclusions="decided", **NO_SIDES)
    states = torch.ones(3, 14)

    def prefixes(model: torch.nn.Module, side: int) -> torch.Tensor:
        stated = Conclusions(states, torch.full((3, 14), side))
        return model.encode(pixels(), stated=stated).prefix

    with torch.no_grad():
        told.observation_prefix.sides.normal_()
        assert not torch.equal(prefixes(told, 0), prefixes(told, 1))
        assert torch.equal(prefixes(untold, 0), prefixes(untold, 1))
        untold.observation_prefix.states.normal_()
        absent = untold.encode(pixels(), stated=Conclusions(-states, torch.full((3, 14), -1))).prefix
        assert not torch.equal(prefixes(untold, 0), absent)
    assert untold(pixels()).side_logits is None
    assert not [name for name, _ in untold.named_parameters() if "side" in name]


def test_what_is_decided_from_the_image_needs_no_side() -> None:
    model = small_student(conclusions="decided", **NO_SIDES)
    model.decide_at([0.0] * 14)
    with torch.no_grad():
        model.observation_prefix.states.normal_()
        told = model.encode(pixels(), stated=Conclusions(torch.ones(3, 14), torch.full((3, 14), 0))).prefix
        assert torch.equal(model.encode(pixels()).prefix, told)


def without_side_term(name: str) -> ArmConfig:
    return ARMS[name].model_copy(update={"terms": tuple(term for term in ARMS[name].terms if term != "side")})


@pytest.mark.parametrize(
    ("arm", "source", "where"),
    [
        (without_side_term("full"), "embedding", "student.side_source"),
        (without_side_term("full"), "map", "student.side_source"),
        (ARMS["full"], "none", "distillation.weights.side"),
        (without_side_term("full"), "none", None),
        (ARMS["full"], "map", None),
        (ARMS["report_only"], "none", None),
        (ARMS["report_only"], "embedding", None),
    ],
)
def test_term_and_head_go_together(arm: ArmConfig, source: str, where: str | None) -> None:
    student = StudentConfig.model_validate({"side_source": source})
    if where is None:
        return refuse_unfounded("arm", arm, student)
    with pytest.raises(ConfigError, match=where):
        refuse_unfounded("arm", arm, student)
    return None
