"""The labels of PadChest -> the 14, where the mapping is sound (table in docs/data.md).

PadChest labels reports with 174 findings and 19 diagnoses in trees; the words below are its own, from the trees and
UMLS concepts in the authors' repository (auriml/Rx-thorax-automatic-captioning: README.md, manual_review/
trees_code.txt); Bustos et al. 2020, arXiv:1901.07441.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final

from kdistill.observations import FINDINGS, NO_FINDING, Labels
from kdistill.studies.sources.label_columns import columns_of_findings

#: Observation -> labels that state it; a child states what its parent does in PadChest's tree.
STATED: Final[Mapping[str, tuple[str, ...]]] = {
    "Enlarged Cardiomediastinum": ("mediastinal enlargement", "superior mediastinal enlargement"),
    "Cardiomegaly": ("cardiomegaly",),
    "Lung Lesion": ("nodule", "multiple nodules", "pulmonary mass", "lung metastasis", "lepidic adenocarcinoma"),
    "Lung Opacity": (
        *("infiltrates", "interstitial pattern", "ground glass pattern", "reticular interstitial pattern"),
        *("reticulonodular interstitial pattern", "miliary opacities", "alveolar pattern", "consolidation"),
        *("air bronchogram", "increased density"),
    ),
    "Edema": ("pulmonary edema",),
    "Consolidation": ("consolidation", "air bronchogram"),
    "Pneumonia": ("pneumonia", "atypical pneumonia", "viral pneumonia"),
    "Atelectasis": (
        *("atelectasis", "total atelectasis", "lobar atelectasis", "segmental atelectasis", "laminar atelectasis"),
        *("round atelectasis", "atelectasis basal"),
    ),
    "Pneumothorax": ("pneumothorax", "hydropneumothorax"),
    "Pleural Effusion": (
        *("pleural effusion", "loculated pleural effusion", "loculated fissural effusion", "hydropneumothorax"),
        *("empyema", "hemothorax"),
    ),
    "Pleural Other": (
        *("pleural thickening", "apical pleural thickening", "calcified pleural thickening", "pleural plaques"),
        *("calcified pleural plaques", "pleural mass"),
    ),
    "Fracture": (
        *("fracture", "clavicle fracture", "humeral fracture", "vertebral fracture", "rib fracture"),
        "callus rib fracture",
    ),
    "Support Devices": (
        *("tracheostomy tube", "endotracheal tube", "nsg tube", "chest drain tube"),
        *("ventriculoperitoneal drain tube", "gastrostomy tube", "nephrostomy tube", "double j stent", "catheter"),
        *("central venous catheter", "central venous catheter via subclavian vein"),
        *("central venous catheter via jugular vein", "reservoir central venous catheter"),
        *("central venous catheter via umbilical vein", "electrical device", "dual chamber device"),
        *("single chamber device", "pacemaker", "dai", "artificial heart valve", "artificial mitral heart valve"),
        *("artificial aortic heart valve", "endoprosthesis", "aortic endoprosthesis"),
    ),
}
#: Observation -> labels that may go with it: they state nothing, but a 0 beside them would be unsound.
UNSURE: Final[Mapping[str, tuple[str, ...]]] = {
    "Enlarged Cardiomediastinum": ("mediastinal mass", "aortic aneurysm", "goiter", "mediastinic lipomatosis"),
    "Cardiomegaly": ("pericardial effusion",),
    "Lung Lesion": ("mass", "pseudonodule", "cavitation", "abscess", "cyst", "granuloma", "calcified granuloma"),
    "Lung Opacity": ("bronchovascular markings", "fibrotic band", "pulmonary fibrosis", "tuberculosis"),
    "Edema": (
        *("heart insufficiency", "hilar congestion", "kerley lines", "vascular redistribution"),
        *("central vascular redistribution", "pulmonary venous hypertension"),
    ),
    "Consolidation": ("alveolar pattern",),
    "Atelectasis": ("volume loss", "hypoexpansion", "hypoexpansion basal"),
    "Pleural Effusion": (
        *("costophrenic angle blunting", "fissure thickening", "minor fissure thickening"),
        "major fissure thickening",
    ),
    "Pleural Other": ("fissure thickening", "minor fissure thickening", "major fissure thickening"),
    "Fracture": ("vertebral compression", "vertebral anterior compression"),
    "Support Devices": (
        *("metal", "osteosynthesis material", "prosthesis", "humeral prosthesis", "abnormal foreign body"),
        "external foreign body",
    ),
}
#: Said of the whole image: it is not to be used.
UNUSABLE: Final[Mapping[str, str]] = {"exclude": "label_exclude", "suboptimal study": "label_suboptimal_study"}
_UNCHANGED: Final = "unchanged"
_ITEM: Final = r"""\s*(?:'([^'\\]*)'|"([^"\\]*)")\s*"""
_LIST: Final = re.compile(rf"\[(?:{_ITEM}(?:,{_ITEM})*)?\s*\]")
_ITEMS: Final = re.compile(_ITEM)
_MAX_CHARS: Final = 10_000


def parse_labels(text: str) -> frozenset[str] | None:
    """The labels of a cell written as a Python list of strings; None for an empty cell (no label was given).

    Nothing is evaluated. Labels are stripped and lower-cased: the table has ' pneumonia' beside 'pneumonia'.

    Raises:
        ValueError: It is no such list.

    >>> sorted(parse_labels("['pleural effusion', ' Pneumonia', '']"))
    ['pleural effusion', 'pneumonia']
    """
    if text.strip().lower() in ("", "nan"):
        return None
    if len(text) > _MAX_CHARS or not _LIST.fullmatch(text.strip()):
        raise ValueError("is no list of labels")
    found = (single or double for single, double in _ITEMS.findall(text))
    return frozenset(filter(None, (label.strip().lower() for label in found)))


def columns_of(labels: Collection[str]) -> Labels:
    """The columns of the 14 (all of them): 1 stated, 0 not among the labels, None where a 0 would be unsound.

    "unchanged" says that a finding of an earlier film, which is not named, may still be there: no 0 beside it.
    """
    given = frozenset(labels)
    stated = {name for name, words in STATED.items() if not given.isdisjoint(words)}
    unsure = {name for name, words in UNSURE.items() if not given.isdisjoint(words)}
    if given == {"normal"}:
        stated.add(NO_FINDING)
    if _UNCHANGED in given:
        unsure |= set(FINDINGS)
    return columns_of_findings(stated, unsure, (NO_FINDING, *FINDINGS))
