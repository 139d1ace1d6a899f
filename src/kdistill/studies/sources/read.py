"""Any source, by its kind."""

from __future__ import annotations

from kdistill.studies.config import (
    BraxStudies,
    CheXpertPlusStudies,
    CheXpertStudies,
    CovidNotesStudies,
    FileSource,
    FolderStudies,
    MimicDicomStudies,
    MimicJpgStudies,
    NihStudies,
    OpeniStudies,
    PadChestStudies,
    VinDrCxrStudies,
)
from kdistill.studies.sources.brax import read_brax
from kdistill.studies.sources.chexpert import read_chexpert
from kdistill.studies.sources.chexpert_plus import read_chexpert_plus
from kdistill.studies.sources.common import SourceTable, choose_images
from kdistill.studies.sources.covid_notes import read_covid_notes
from kdistill.studies.sources.folder import read_folder
from kdistill.studies.sources.mimic_cxr import read_mimic
from kdistill.studies.sources.nih_cxr14 import read_nih
from kdistill.studies.sources.openi import read_openi
from kdistill.studies.sources.padchest import read_padchest
from kdistill.studies.sources.vindr_cxr import read_vindr_cxr


def read_source(config: FileSource) -> SourceTable:
    """Read one source's table, without its images, each study's images in the order that the recipe asks for.

    Raises:
        InputError: The table is wrong.
        LeakageError: A patient stands in two splits.
        PolicyError: An archive of the source is unsafe.
    """
    table = _read(config)
    chosen = SourceTable([], list(table.left_out), table.counts)
    for item in table.studies:
        kept = choose_images(item, config)
        if kept is None:
            chosen.left_out.append((item.study.study_id, "no_frontal_image"))
        else:
            chosen.studies.append(kept)
    return chosen


def _read(config: FileSource) -> SourceTable:
    match config:
        case FolderStudies():
            return read_folder(config)
        case NihStudies():
            return read_nih(config)
        case CovidNotesStudies():
            return read_covid_notes(config)
        case CheXpertStudies():
            return read_chexpert(config)
        case CheXpertPlusStudies():
            return read_chexpert_plus(config)
        case BraxStudies():
            return read_brax(config)
        case OpeniStudies():
            return read_openi(config)
        case PadChestStudies():
            return read_padchest(config)
        case VinDrCxrStudies():
            return read_vindr_cxr(config)
        case MimicJpgStudies() | MimicDicomStudies():
            return read_mimic(config)
