"""NIH boxes: fractions of the film, observations that are among the 14, and what is left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdistill.errors import InputError
from kdistill.studies.boxes import read_nih_boxes


def test_boxes_are_fractions_of_the_original(tmp_path: Path) -> None:
    table = tmp_path / "bbox.csv"
    table.write_text(
        "Image Index,Finding Label,x,y,w,h\n"
        "00000013_001.png,Infiltrate,256,512,128,64\n"
        "00000013_001.png,Hernia,1,1,1,1\n"
    )
    (found,) = read_nih_boxes(table)
    assert found == ("13", "00000013_001", "Lung Opacity", (0.25, 0.5, 0.375, 0.5625))


def test_a_table_of_other_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bbox.csv").write_text("image,label\na.png,Effusion\n")
    with pytest.raises(InputError, match="Finding Label"):
        read_nih_boxes(tmp_path / "bbox.csv")
