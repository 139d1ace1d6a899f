"""report_f1 is called CheXbert F1 only where CheXbert read the generated texts."""

from __future__ import annotations

from pathlib import Path

from kdistill.evaluation.files import score_files
from kdistill.evaluation.table import f1_note, format_table

from .run_folders import PlainLabeler


class OtherLabeler(PlainLabeler):
    name = "chexbert"
    revision = "0123456789ab"


def scores_by(labeler: PlainLabeler, folder: Path) -> tuple:
    table = folder / "r.csv"
    table.write_text('study_id,report\na,"Edema: present"\nb,"Fracture: present"\n', encoding="utf-8")
    return score_files(table, table, labeler=labeler).scores


def test_only_chexbert_gives_chexbert_f1(tmp_path: Path) -> None:
    plain, chexbert = (scores_by(labeler, tmp_path) for labeler in (PlainLabeler(), OtherLabeler()))
    assert f1_note(plain) == "F1: generated texts were read by plain@1; this is not CheXbert F1."
    assert f1_note(chexbert) == "F1: generated texts were read by chexbert@0123456789ab; this is CheXbert F1."
    assert "not CheXbert F1" in f1_note([*plain, *chexbert])
    assert f1_note([]).startswith("No F1")
    assert f1_note(chexbert) in format_table(chexbert, [])
    assert {s.labeler for s in chexbert if s.name == "report_f1"} == {"chexbert@0123456789ab"}
