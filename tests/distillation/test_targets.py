"""What each arm is given: label sources and policies, shuffling, studies without a report, vocabularies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdistill.distillation.collate import Visit, VisitOrder
from kdistill.distillation.config import ARMS, DistillationConfig
from kdistill.distillation.labels import label_targets, left_blank, softened
from kdistill.distillation.targets import build_targets, check_vocabularies, derangement
from kdistill.errors import ConfigError, InputError
from kdistill.observations import INDEX
from kdistill.records import Study, StudyImage
from kdistill.student.config import StudentConfig
from kdistill.studies.store import load_studies
from kdistill.teacher.tokenizer import load_tokenizer, train_tokenizer

from .conftest import Count
from .parts import make_parts
from .toy import ToyDirs

EFFUSION, HEART = INDEX["Pleural Effusion"], INDEX["Cardiomegaly"]


def study(**changes: object) -> Study:
    image = StudyImage(image_path="a.png", row=0)
    return Study.model_validate({"study_id": "a", "patient_id": "p", "split": "train", "images": (image,), **changes})


@pytest.mark.parametrize(
    ("state", "policies", "expected"),
    [
        (1, {}, 1.0),
        (0, {}, 0.0),
        (-1, {"uncertain": "positive"}, 1.0),
        (-1, {"uncertain": "negative"}, 0.0),
        (-1, {"uncertain": "masked"}, None),
        (None, {"blank": "negative"}, 0.0),
        (None, {"blank": "masked"}, None),
    ],
)
def test_label_policies(state: int | None, policies: dict, expected: float | None, count: Count) -> None:
    """Fails if a policy is flipped."""
    config = DistillationConfig(**policies)
    value = label_targets([study()], {"a": {"Pleural Effusion": state}}, config, count)[0, EFFUSION]
    assert (None if np.isnan(value) else value) == expected


def test_a_column_beats_the_report_and_both_are_counted(count: Count) -> None:
    stated = {"a": {"Pleural Effusion": 1, "Cardiomegaly": 1}}
    labels = {"Pleural Effusion": 0, "Cardiomegaly": None}
    targets = label_targets([study(labels=labels)], stated, DistillationConfig(), count)
    assert targets[0, EFFUSION] == 0.0 and targets[0, HEART] == 1.0
    assert count["label_from_column"] == 1 and count["label_from_report"] == 13


def test_a_study_without_report_is_never_negative_by_silence(count: Count) -> None:
    targets = label_targets([study(labels={"Pleural Effusion": 1})], {}, DistillationConfig(), count)
    assert targets[0, EFFUSION] == 1.0 and np.isnan(np.delete(targets[0], EFFUSION)).all()
    assert count == {"label_from_column": 1, "label_masked": 13}


def test_label_sources_differ_where_the_teacher_infers(world: ToyDirs, tiny: StudentConfig) -> None:
    config = DistillationConfig(blank="masked")
    explicit, teacher = (make_parts(world, tiny, config, arm).targets.labels for arm in ("label", "teacher_label"))
    assert np.isnan(explicit[0, HEART]) and teacher[0, HEART] == 0.0
    np.testing.assert_array_equal(explicit[:, EFFUSION], teacher[:, EFFUSION])


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_derangement_never_meets_its_own_patient(patients: list[int], seed: int) -> None:
    names = [f"p{n}" for n in patients]
    if 2 * max(names.count(name) for name in names) > len(names):
        with pytest.raises(InputError, match="half"):
            derangement(names, seed)
        return
    donors = derangement(names, seed)
    assert sorted(donors.tolist()) == list(range(len(names)))
    assert all(names[n] != names[donor] for n, donor in enumerate(donors.tolist()))
    np.testing.assert_array_equal(donors, derangement(names, seed))


def test_shuffled_teacher_takes_everything_but_labels_from_another(world: ToyDirs, tiny: StudentConfig) -> None:
    config = DistillationConfig()
    label, full, shuffled = (make_parts(world, tiny, config, a).targets for a in ("label", "full", "shuffled_teacher"))
    np.testing.assert_array_equal(shuffled.labels, label.labels)
    np.testing.assert_array_equal(shuffled.sides, label.sides)
    donors = derangement([s.patient_id for s in full.studies], 0)
    for n, donor in enumerate(donors.tolist()):
        assert shuffled.rationales[n] == full.rationales[donor] and shuffled.spans[n] == full.spans[donor]
        assert (shuffled.regions[n] == full.regions[donor]).all()
        assert (shuffled.statements[n] == full.statements[donor]).all()


def test_text_of_the_teachers_tokens_is_the_rationale(world: ToyDirs, tiny: StudentConfig) -> None:
    config = DistillationConfig()
    with_token, without = (make_parts(world, tiny, config, arm).targets for arm in ("full", "full_no_token"))
    assert with_token.rationales == without.rationales
    assert without.spans == (None,) * len(without.spans)


def test_studies_without_report_or_rationale_are_counted(world: ToyDirs, tmp_path: Path, count: Count) -> None:
    shutil.copytree(world.rationales, tmp_path / "rationales")
    path = tmp_path / "rationales/template.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    studies = load_studies(world.studies, "train")
    studies[1] = studies[1].model_copy(update={"findings": "", "impression": ""})
    targets = build_targets(
        studies,
        ARMS["template"],
        DistillationConfig(),
        load_tokenizer(str(world.teacher / "model")),
        labels_dir=world.labels,
        rationales_dir=tmp_path / "rationales",
        seed=0,
        count=count,
    )
    assert targets.rationales[0] is None and targets.reports[1] is None
    assert count["study_without_rationale"] == 1 and count["study_without_report"] == 1


def test_arms_read_nothing_that_they_may_not_use(world: ToyDirs, tiny: StudentConfig, tmp_path: Path) -> None:
    """report_only needs neither labels nor rationales; label needs explicit files alone; template no teacher's."""
    bare = ToyDirs(world.studies, tmp_path / "none", tmp_path / "none", world.teacher)
    make_parts(bare, tiny, DistillationConfig(), "report_only")
    (tmp_path / "rationales").mkdir()
    shutil.copy(world.rationales / "template.jsonl", tmp_path / "rationales")
    own = ToyDirs(world.studies, world.labels, tmp_path / "rationales", world.teacher)
    make_parts(own, tiny, DistillationConfig(), "label")
    make_parts(own, tiny, DistillationConfig(), "template")
    with pytest.raises(InputError, match=r"readings\.jsonl|rationales\.jsonl"):
        make_parts(own, tiny, DistillationConfig(), "full")


def test_unequal_vocabularies_are_refused_with_both_sizes(world: ToyDirs) -> None:
    teacher = load_tokenizer(str(world.teacher / "model"))
    other = train_tokenizer(["something else entirely"] * 3, 300)
    with pytest.raises(ConfigError, match=rf"{len(other)}.*{len(teacher)}"):
        check_vocabularies(other, teacher)
    check_vocabularies(teacher, teacher)


def test_damaged_targets_are_named(world: ToyDirs, tiny: StudentConfig, tmp_path: Path) -> None:
    shutil.copytree(world.rationales, tmp_path / "rationales")
    path = tmp_path / "rationales/targets.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    cut = ToyDirs(world.studies, world.labels, tmp_path / "rationales", world.teacher)
    with pytest.raises(InputError, match=r"targets\.safetensors"):
        make_parts(cut, tiny, DistillationConfig(), "full")


def test_order_is_a_permutation_a_pass_and_the_same_for_a_seed() -> None:
    order = [visit.study for visit in VisitOrder(7, 20, seed=3)]
    assert len(order) == len(VisitOrder(7, 20, seed=3)) == 20
    assert sorted(order[:7]) == sorted(order[7:14]) == list(range(7)) and order[:7] != order[7:14]
    assert list(VisitOrder(7, 20, seed=3)) == list(VisitOrder(7, 20, seed=3)) != list(VisitOrder(7, 20, seed=4))


def test_every_third_visit_decodes_texts_and_the_order_does_not_change() -> None:
    visits = list(VisitOrder(7, 20, seed=3, text_every=3))
    assert [visit.study for visit in visits] == [visit.study for visit in VisitOrder(7, 20, seed=3)]
    assert [number for number, visit in enumerate(visits) if visit.with_texts] == list(range(0, 20, 3))


def test_a_visit_without_texts_keeps_its_labels_and_loses_its_texts(world: ToyDirs, tiny: StudentConfig) -> None:
    parts = make_parts(world, tiny, DistillationConfig(), "full")
    both = parts.batch(range(2))
    one = parts.collator([Visit(0), Visit(1, with_texts=False)])
    for name in ("label_targets", "pixel_values", "statement_rows", "region_rows"):
        assert np.array_equal(one[name], both[name], equal_nan=True), name
    written = [int(image) for slot in ("report", "rationale") for text in one[slot] for image in text["image_index"]]
    assert written and set(written) == {0}


@pytest.mark.parametrize(("arm", "every"), [("report_only", 1), ("label_patches", 1), ("label", 3), ("full", 3)])
def test_a_decoder_that_has_only_texts_to_learn_to_look_from_reads_them_at_every_visit(arm: str, every: int) -> None:
    assert DistillationConfig(text_every=3).arm_text_every(ARMS[arm]) == every


def test_config_refuses_what_cannot_work() -> None:
    for settings_, message in (
        ({"arms": ["nope"]}, "no arm is named .nope.; known: report_only"),
        ({"batch_size": 8, "micro_batch": 3}, "does not divide"),
        ({"checkpoint_steps": 30}, "multiple of logging_steps"),
        ({"arms": ["full", "nearest_report"]}, "needs the arm 'label'"),
    ):
        with pytest.raises(ValueError, match=message):
            DistillationConfig.model_validate(settings_)


def test_long_arm_trains_for_the_compute_of_full() -> None:
    config = DistillationConfig(num_image_visits=3200, batch_size=32, full_compute_ratio=1.5)
    assert config.num_steps("report_only") == config.num_steps("full") == 100
    assert config.num_steps("report_only_long") == 150


def test_every_arm_is_written_as_plain_data() -> None:
    assert json.loads(json.dumps({name: arm.model_dump(mode="json") for name, arm in ARMS.items()}))


def test_a_blank_is_what_a_read_report_does_not_mention_and_no_column_tells() -> None:
    studies = [study(), study(labels={"Pleural Effusion": 0})]
    stated = {"a": {"Edema": 1, "Pleural Effusion": None}}
    blanks = left_blank(studies, stated)
    assert blanks[0, EFFUSION] and not blanks[0, INDEX["Edema"]]
    assert not blanks[1, EFFUSION], "a column tells"
    assert not left_blank(studies[:1], {}).any(), "a study that nobody read left nothing out"


def test_soft_labels_are_the_teachers_confidence_in_what_it_found(count: Count) -> None:
    studies = [study(labels={"Edema": 1})]
    stated = {"a": {"Pleural Effusion": 1, "Fracture": 0}}
    targets = label_targets(studies, stated, DistillationConfig(), count)
    soft = softened(targets, studies, {"a": {"Pleural Effusion": 0.7, "Fracture": 0.9, "Edema": 0.2}})
    assert soft[0, EFFUSION] == np.float32(0.7)
    assert soft[0, INDEX["Fracture"]] == 0 and soft[0, INDEX["Edema"]] == 1, "denials and columns stay"
