"""Own sentences, one rule each: what a radiologist would mark. Shorthand names keep the table readable."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdistill.labelers.rules import RuleLabeler
from kdistill.observations import NO_FINDING, OBSERVATION_TERMS, OBSERVATIONS, SUPPORT_DEVICES, empty_labels

SHORT = {
    "nf": "No Finding",
    "ecm": "Enlarged Cardiomediastinum",
    "card": "Cardiomegaly",
    "les": "Lung Lesion",
    "opa": "Lung Opacity",
    "ede": "Edema",
    "con": "Consolidation",
    "pna": "Pneumonia",
    "atl": "Atelectasis",
    "ptx": "Pneumothorax",
    "eff": "Pleural Effusion",
    "plo": "Pleural Other",
    "fx": "Fracture",
    "dev": "Support Devices",
}

CASES = [
    # negation and its scope
    ("There is no pneumothorax.", "ptx=0 nf=1"),
    ("No consolidation, effusion or pneumothorax is seen.", "con=0 eff=0 ptx=0 nf=1"),
    ("No consolidation, effusion, pneumothorax.", "con=0 eff=0 ptx=0 nf=1"),
    ("No pneumothorax but a small effusion on the left.", "ptx=0 eff=1"),
    ("No pneumothorax, small left effusion.", "ptx=0 eff=1"),
    ("No pneumothorax and mild cardiomegaly.", "ptx=0 card=1"),
    ("No pneumothorax; bibasilar atelectasis.", "ptx=0 atl=1"),
    ("Cardiomegaly without edema.", "card=1 ede=0"),
    ("No edema with stable cardiomegaly.", "ede=0 card=1"),
    ("Lungs are clear of consolidation.", "con=0 nf=1"),
    ("Negative for fracture.", "fx=0 nf=1"),
    ("Neither effusion nor pneumothorax is present.", "eff=0 ptx=0 nf=1"),
    ("Effusion is not seen.", "eff=0 nf=1"),
    ("Pneumothorax: none.", "ptx=0 nf=1"),
    ("No findings to suggest pneumonia.", "pna=0 nf=1"),
    ("No effusion. Pneumonia in the right lower lobe.", "eff=0 pna=1"),
    ("There is no effusion and the heart is enlarged.", "eff=0 card=1"),
    ("No acute disease or effusion.", "eff=0 nf=1"),
    ("No definite pneumothorax, although there is a left rib fracture.", "ptx=0 fx=1"),
    ("Aside from a right chest tube, no abnormality.", "dev=1 nf=1"),
    # double negation, change
    ("No change in the left effusion.", "eff=1"),
    ("No significant interval change in right basilar atelectasis.", "atl=1"),
    ("Left effusion without change.", "eff=1"),
    ("No increase in the pneumothorax.", "ptx=1"),
    ("Unchanged cardiomegaly.", "card=1"),
    # uncertainty
    ("Possible left lower lobe pneumonia.", "pna=-1"),
    ("Opacity that may represent pneumonia or atelectasis.", "opa=1 pna=-1 atl=-1"),
    ("Pneumonia cannot be excluded.", "pna=-1"),
    ("Left opacity, pneumonia cannot be excluded.", "opa=1 pna=-1"),
    ("Cannot exclude a small pneumothorax.", "ptx=-1"),
    ("Atelectasis versus pneumonia.", "atl=-1 pna=-1"),
    ("Atelectasis or pneumonia.", "atl=-1 pna=-1"),
    ("Pneumonia possible.", "pna=-1"),
    ("?Pneumonia in the left base.", "pna=-1"),
    ("Pneumonia?", "pna=-1"),
    ("No effusion, possible pneumonia.", "eff=0 pna=-1"),
    ("Findings suggest mild edema.", "ede=-1"),
    ("Probable atelectasis with small effusion.", "atl=-1 eff=1"),
    ("Differential diagnosis includes edema, infection, hemorrhage.", "ede=-1 pna=-1"),
    ("Interstitial pattern consistent with edema.", "opa=1 ede=1"),
    ("Opacity in the right middle or lower lobe compatible with pneumonia.", "opa=1 pna=1"),
    ("Borderline cardiomegaly.", "card=-1"),
    ("Correlate clinically for pneumonia.", "pna=-1"),
    ("Pneumonia is unlikely.", "pna=0 nf=1"),
    # predicates of the heart and mediastinum
    ("Heart size is normal.", "card=0 nf=1"),
    ("The heart is mildly enlarged.", "card=1"),
    ("The heart is not enlarged.", "card=0 nf=1"),
    ("Cardiac silhouette and mediastinum are within normal limits.", "card=0 ecm=0 nf=1"),
    ("Normal heart size and mediastinal contours.", "card=0 ecm=0 nf=1"),
    ("Enlargement of the cardiac silhouette.", "card=1"),
    ("Widened mediastinum.", "ecm=1"),
    ("The mediastinum is widened.", "ecm=1"),
    ("Heart size is stable, lungs are clear.", "nf=1"),
    ("Heart size is normal and large left effusion.", "card=0 eff=1"),
    ("The cardiac silhouette is borderline enlarged.", "card=-1"),
    ("The aorta is enlarged.", ""),
    ("Heart size at the upper limits of normal.", "card=0 nf=1"),
    ("Heart and mediastinum normal.", "card=0 ecm=0 nf=1"),
    ("Pulmonary vasculature is engorged.", "ede=1"),
    ("Pulmonary vasculature is normal.", "nf=1"),
    # prior statements
    ("Left effusion has resolved.", "eff=0 nf=1"),
    ("Resolution of the right pneumothorax.", "ptx=0 nf=1"),
    ("The chest tube has been removed.", "dev=0 nf=1"),
    ("Pneumothorax is no longer seen.", "ptx=0 nf=1"),
    ("Nearly resolved effusion.", "eff=1"),
    ("History of pneumonia.", ""),
    ("Evaluate for pneumonia.", ""),
    # un-mentions and abnormal words outside the 14
    ("Calcified nodule in the right upper lobe.", ""),
    ("Massive left effusion.", "eff=1"),
    ("Pericardial effusion.", ""),
    ("Emphysema.", ""),
    ("Trachea is midline and lungs are clear.", "nf=1"),
    ("Degenerative changes of the spine. Lungs are clear.", ""),
    ("Nipple shadow, no nodule.", "les=0 nf=1"),
    ("Prior lumpectomy, lungs are clear.", "nf=1"),
    ("Please note that rib fractures may not be demonstrated.", ""),
    ("Lung volumes are low. Lungs are clear.", ""),
    ("Lung markings are prominent.", "opa=1"),
    ("Lung markings are normal.", "nf=1"),
    # two predicates of one subject; "and/or"; conditions, known diseases elsewhere, what is resolved only in part
    ("The heart size is upper limits normal or mildly enlarged.", "card=-1"),
    ("Heart size is normal or top normal.", "card=0 nf=1"),
    ("The heart appears enlarged or normal.", "card=-1"),
    ("Heart size is normal or there is an effusion.", "card=0 eff=1"),
    ("Bibasilar atelectasis and/or infiltrates.", "atl=-1 opa=-1"),
    ("If there is continued concern for occult fracture, consider dedicated rib series.", ""),
    ("If clinical concern for rib fracture persists dedicated films will help.", ""),
    ("White as if seen through frosted glass when lung opacity is in question.", "opa=-1"),
    ("Unclear whether this is cardiomegaly.", "card=-1"),
    ("History of possible pneumonia.", ""),
    ("History of asthma, possible pneumonia.", "pna=-1"),
    ("Chest wall mass compatible with known breast carcinoma.", ""),
    ("Left effusion has not resolved.", "eff=1"),
    ("Almost completely resolved right pneumothorax.", "ptx=1"),
    ("Resolution of the opacity suggesting resolved infectious process.", "opa=0 pna=0 nf=1"),
    ("Marked interval increase in heart size.", "card=1"),
    ("The lower lobe is totally opaque.", "opa=1"),
    ("There is thickening of the fissure.", "plo=1"),
    ("Probably within the middle lobe given the opacity on the lateral view.", "opa=1"),
    ("Levoscoliosis of the spine. Lungs are clear.", ""),
    ("Hyperaerated lungs with flattened hemidiaphragms. Heart size is normal.", "card=0"),
    # vocabulary
    ("Left hydropneumothorax.", "ptx=1 eff=1"),
    ("Apical pleural thickening.", "plo=1"),
    ("Other pleural abnormality.", "plo=1"),
    ("Endotracheal tube in place.", "dev=1 nf=1"),
    ("Air-space disease at the left base.", "opa=1"),
    ("Nodular opacity on the right.", "les=1"),
    ("Right lower lobe collapse.", "atl=1"),
    ("Kerley B-lines at both bases.", "ede=1"),
    # aggregation: stated over uncertain over denied
    ("No effusion. Possible effusion.", "eff=-1"),
    ("Possible effusion. Large effusion. No effusion.", "eff=1"),
    # wrapped lines and lists
    ("The lungs show no focal abnormality and there is no evidence of\npneumothorax or effusion.", "ptx=0 eff=0 nf=1"),
    ("1. No effusion\n2. Cardiomegaly", "eff=0 card=1"),
    ("No effusion\nCardiomegaly", "eff=0 card=1"),
    # nothing said
    ("", ""),
    ("   \n ", ""),
    ("___ ___.", ""),
    ("Hello there.", ""),
    # another language is not read
    ("Kein Pneumothorax. Kein Infiltrat und kein Erguss.", ""),
    ("No hay neumotórax ni derrame pleural. Posible edema con cardiomegalia.", ""),
]


@pytest.fixture(scope="module")
def labeler() -> RuleLabeler:
    return RuleLabeler()


def expected(text: str) -> dict[str, int | None]:
    labels = empty_labels()
    for pair in text.split():
        key, value = pair.split("=")
        labels[SHORT[key]] = int(value)
    return labels


@pytest.mark.parametrize(("report", "labels"), CASES)
def test_one_rule_each(labeler: RuleLabeler, report: str, labels: str) -> None:
    assert labeler.label(report) == expected(labels)


# The four situations of the official sample in our own words.
PARAPHRASED = [
    ("Normal heart size, clear lungs. There is no edema or pneumonia. No effusion", "nf=1 card=0 ede=0 pna=0 eff=0"),
    (
        "1. Effusion on the left with atelectasis beside it. An effusion is also seen on the right.\n\n"
        "2. Cardiomegaly without frank edema.",
        "card=1 ede=0 atl=1 eff=1",
    ),
    (
        "Slight patchy airspace disease in the lingula, could reflect consolidation or atelectasis.",
        "opa=1 con=-1 atl=-1",
    ),
    ("1. Mild cardiomegaly, stable. 2. Lungs hyperexpanded but clear.", "card=1"),
]


@pytest.mark.parametrize(("report", "labels"), PARAPHRASED)
def test_sample_situations(labeler: RuleLabeler, report: str, labels: str) -> None:
    assert labeler.label(report) == expected(labels)


def test_official_sample_is_reproduced_exactly(labeler: RuleLabeler, shared_data: Path) -> None:
    path = shared_data / "chexpert_labeler_reference" / "labeled_reports.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    for row in rows:
        official = {name: int(float(row[name])) if row[name] else None for name in OBSERVATIONS}
        assert labeler.label(row["Reports"]) == official


def canonical(name: str, state: int, side: str, zone: str, severity: str, *, zone_first: bool) -> str:
    words = [
        {1: "", 0: "no", -1: "possible"}[state],
        severity,
        side,
        zone if zone_first else "",
        OBSERVATION_TERMS[name],
    ]
    text = " ".join(word for word in words if word)
    if zone and not zone_first:
        text += f" in the {zone} zone"
    return text[0].upper() + text[1:]


@pytest.mark.parametrize(
    ("name", "state"), [(n, s) for n in OBSERVATIONS for s in (1, 0, -1) if n != NO_FINDING or s == 1]
)
def test_canonical_statements_are_read_back(labeler: RuleLabeler, name: str, state: int) -> None:
    for side in ("", "left", "right", "bilateral"):
        for zone in ("", "upper", "middle", "lower"):
            for severity in ("", "mild", "moderate", "severe"):
                for zone_first in (True, False):
                    text = canonical(name, state, side, zone, severity, zone_first=zone_first)
                    labels = labeler.label(text + ".")
                    wanted = empty_labels() | {name: state}
                    if state == 0 or name in (NO_FINDING, SUPPORT_DEVICES):
                        wanted[NO_FINDING] = 1
                    assert labels == wanted, text
                    mentions = labeler.mentions(text)
                    assert [(m.observation, m.state, m.side) for m in mentions] == [(name, state, side or None)], text


def test_joined_statements_stay_apart(labeler: RuleLabeler) -> None:
    statements = [
        canonical(n, s, "left", "lower", "mild", zone_first=False) for n in OBSERVATIONS[1:] for s in (1, 0, -1)
    ]
    for first in statements[::5]:
        for second in statements[::7]:
            apart = {(m.observation, m.state) for text in (first, second) for m in labeler.mentions(text)}
            joined = {(m.observation, m.state) for m in labeler.mentions(f"{first}. {second}.")}
            assert joined == apart


def test_only_findings_and_impression_count(labeler: RuleLabeler) -> None:
    report = "INDICATION: Pneumonia?\nCOMPARISON: Prior effusion.\nFINDINGS: Lungs are clear.\nIMPRESSION: No edema."
    assert labeler.label(report) == expected("ede=0 nf=1")
    assert labeler.label("INDICATION: Evaluate effusion.") == empty_labels()


def test_mentions_name_span_sentence_and_side(labeler: RuleLabeler) -> None:
    text = "INDICATION: cough. FINDINGS: Clear lungs. Small LEFT effusion, no right pneumothorax."
    effusion, pneumothorax = labeler.mentions(text)
    assert (effusion.observation, effusion.state, effusion.side) == ("Pleural Effusion", 1, "left")
    assert text[slice(*effusion.span)] == effusion.phrase == "effusion"
    assert effusion.sentence_text == "Small LEFT effusion, no right pneumothorax."
    assert (pneumothorax.state, pneumothorax.side, pneumothorax.sentence) == (0, "right", effusion.sentence)


def test_label_all_equals_one_by_one(labeler: RuleLabeler) -> None:
    reports = [report for report, _ in CASES]
    assert labeler.label_all(reports) == [labeler.label(report) for report in reports]


def test_revision_is_stable_and_names_the_phrases(labeler: RuleLabeler) -> None:
    assert RuleLabeler().revision == labeler.revision
    assert labeler.name == "kdistill-rules"


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=400))
def test_never_raises_and_keeps_the_contract(labeler: RuleLabeler, text: str) -> None:
    labels = labeler.label(text)
    assert tuple(labels) == OBSERVATIONS
    assert set(labels.values()) <= {1, 0, -1, None}
    assert labels[NO_FINDING] in (1, None)
    for mention in labeler.mentions(text):
        assert text[slice(*mention.span)] == mention.phrase


_CUES = (
    "no without effusion pneumonia possible or , . ; the heart is enlarged normal with but may represent versus "
    "resolved cannot be excluded ? left and mild lungs clear tube change in"
)
_WORDS = st.sampled_from([*_CUES.split(), "\n"])


@settings(max_examples=200, deadline=None)
@given(st.lists(_WORDS, max_size=30))
def test_case_and_trailing_space_do_not_matter(labeler: RuleLabeler, words: list[str]) -> None:
    text = " ".join(words)
    labels = labeler.label(text)
    assert labeler.label(text.upper()) == labels
    assert labeler.label(text.title()) == labels
    assert labeler.label(text.rstrip() + "  \t") == labels


@settings(max_examples=100, deadline=None)
@given(st.lists(_WORDS, max_size=30))
def test_labels_are_the_aggregate_of_mentions(labeler: RuleLabeler, words: list[str]) -> None:
    text = " ".join(words)
    labels = labeler.label(text)
    rank = {None: 0, 0: 1, -1: 2, 1: 3}
    for name in OBSERVATIONS[1:]:
        states = [mention.state for mention in labeler.mentions(text) if mention.observation == name]
        assert labels[name] == max(states, key=rank.__getitem__, default=None)
