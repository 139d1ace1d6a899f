"""How much a text is about the chest and its imaging: points for distinct terms, fewer for terms of other regions.

The weights are a plain list, made for this project by reading; docs/literature.md says how well they do. 3: enough
alone (a finding, sign or device of the chest radiograph, or the examination itself). 2: chest anatomy. 1: context that
often goes with it. Negative: another region or discipline that shares words with the chest ("opacity" of the
lens, "effusion" of the knee).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from kdistill.literature.text import stem, words
from kdistill.records import Article

#: One line per weight; a term is one or more words, compared after folding plurals.
_TERMS: Final = (
    (3.0, "chest x ray, chest xray, chest radiograph, chest radiography, chest film, chest roentgenogram, cxr"),
    (3.0, "thoracic radiography, thoracic radiograph, chest radiogram, chest ct, chest tomography, thoracic ct"),
    (3.0, "chest computed tomography, computed tomography of the chest, ct of the chest, thoracic computed tomography"),
    (3.0, "ct scan of the chest, ct chest, radiograph of the chest, x ray of the chest, radiography of the chest"),
    (3.0, "pneumothorax, pneumothoraces, hydropneumothorax, hemothorax, haemothorax, pneumomediastinum, chylothorax"),
    (3.0, "pleural effusion, pleural thickening, pleural plaque, pleural disease, pleural fluid, empyema thoracis"),
    (3.0, "costophrenic, cardiothoracic ratio, cardiac silhouette, cardiomegaly, air bronchogram, kerley, hilum, hila"),
    (3.0, "atelectasis, atelectases, atelectatic, lung collapse, lobar collapse, pulmonary collapse, hemidiaphragm"),
    (3.0, "pulmonary edema, pulmonary oedema, lung edema, pulmonary congestion, cephalization, interstitial edema"),
    (3.0, "pneumonia, bronchopneumonia, pneumonitis, lung consolidation, pulmonary consolidation, lobar consolidation"),
    (3.0, "lung opacity, pulmonary opacity, pulmonary infiltrate, lung infiltrate, ground glass, lung abscess"),
    (3.0, "pulmonary nodule, lung nodule, pulmonary mass, lung mass, lung lesion, pulmonary lesion, coin lesion"),
    (3.0, "widened mediastinum, mediastinal widening, mediastinal mass, hilar lymphadenopathy, hilar adenopathy"),
    (3.0, "rib fracture, fractured rib, flail chest, clavicle fracture, clavicular fracture, sternal fracture"),
    (3.0, "chest tube, thoracostomy, thoracentesis, pleural drainage, endotracheal tube, chest drain, swan ganz"),
    (3.0, "pulmonary fibrosis, interstitial lung, honeycombing, emphysema, bronchiectasis, pneumoconiosis, asbestosis"),
    (3.0, "silicosis, pulmonary tuberculosis, pulmonary embolism, pulmonary hemorrhage, pulmonary haemorrhage"),
    (3.0, "lung volume, lung field, lung base, lung apex, lung apices, lung zone, upper lobe, middle lobe, lower lobe"),
    (3.0, "lung parenchyma, pulmonary vasculature, acute respiratory distress syndrome, ards, pleurisy, pleuritis"),
    (3.0, "pericardial effusion, pleural cavity, pleural space, parietal pleura, visceral pleura, mediastinal shift"),
    (
        2.0,
        "lung, pulmonary, pleura, pleural, mediastinum, mediastinal, hilar, thorax, thoracic, intrathoracic, lingula",
    ),
    (2.0, "bronchus, bronchi, bronchial, bronchiole, trachea, carina, tracheobronchial, pneumonectomy, lobectomy"),
    (2.0, "diaphragm, rib, sternum, clavicle, rib cage, consolidation, perihilar, retrocardiac, sarcoidosis"),
    (2.0, "copd, chronic obstructive pulmonary disease, chronic bronchitis, bronchiolitis, tuberculosis, aspiration"),
    (
        2.0,
        "pacemaker, central venous catheter, central line, nasogastric tube, cardiomyopathy, pericardium, pericardial",
    ),
    (1.5, "chest, cardiac enlargement, enlarged heart, heart size, heart failure, aortic arch, pericarditis, alveoli"),
    (1.0, "respiratory, dyspnea, dyspnoea, shortness of breath, cough, hemoptysis, haemoptysis, hypoxia, hypoxemia"),
    (
        1.0,
        "heart, cardiac, left ventricular, left atrial, aorta, aortic, radiograph, radiographic, radiological, x ray",
    ),
    (
        1.0,
        "infiltrate, opacity, effusion, edema, oedema, nodule, collapse, fibrosis, catheter, hyperinflation, alveolar",
    ),
    (1.0, "airway, ventilation, intubation, breath sound, crackle, tachypnea, asthma, congestion, venous pressure"),
    (
        -2.0,
        "dental, tooth, teeth, mandible, mandibular, maxilla, maxillary, periodontal, alveolar bone, alveolar ridge",
    ),
    (-2.0, "cornea, corneal, retina, retinal, macular, cataract, optic nerve, ocular, eye, eyelid, orbital, orbit"),
    (
        -2.0,
        "knee, hip, ankle, wrist, femur, femoral head, tibia, tibial, humerus, radius, elbow, shoulder joint, meniscus",
    ),
    (-2.0, "uterus, uterine, ovary, ovarian, cervix, fetus, fetal, placenta, testis, testicular, prostate, scrotum"),
    (
        -2.0,
        "middle ear, cochlea, cochlear, sinus floor, tonsil, thyroid nodule, parotid, nasal cavity, paranasal sinus",
    ),
    (-1.0, "brain, cerebral, intracranial, skull, pelvis, pelvic, bladder, kidney, renal, liver, hepatic, pancreas"),
    (-1.0, "pancreatic, gallbladder, colon, bowel, intestine, intestinal, ileum, appendix, spleen, abdominal ct, foot"),
    (-1.0, "lumbar, cervical spine, thoracic spine, thoracic vertebra, spinal cord, breast, mammography, hand, finger"),
    (
        -1.5,
        "mouse, mice, rat, murine, zebrafish, drosophila, in vitro, gene expression, cell line, genome, mrna, receptor",
    ),
)

#: MeSH headings whose articles are about the chest (National Library of Medicine, mesh.nlm.nih.gov).
_MESH: Final = frozenset(
    {
        "radiography, thoracic",
        "thoracic diseases",
        "lung diseases",
        "lung diseases, interstitial",
        "lung neoplasms",
        "lung",
        "pneumonia",
        "pneumothorax",
        "pleural effusion",
        "pleural diseases",
        "pulmonary atelectasis",
        "pulmonary edema",
        "pulmonary fibrosis",
        "solitary pulmonary nodule",
        "cardiomegaly",
        "heart failure",
        "mediastinal diseases",
        "mediastinum",
        "rib fractures",
        "thoracic injuries",
        "thorax",
        "respiratory distress syndrome",
        "tuberculosis, pulmonary",
        "pulmonary disease, chronic obstructive",
        "pulmonary emphysema",
        "bronchiectasis",
        "covid-19",
    }
)
#: Most that title and MeSH can add to a passage, which must bring the rest itself.
CONTEXT_CAP: Final = 1.5
_MESH_POINTS: Final = 1.0

Phrase = tuple[str, ...]


def _build_table() -> dict[str, tuple[tuple[Phrase, float], ...]]:
    table: dict[str, list[tuple[Phrase, float]]] = {}
    for weight, terms in _TERMS:
        for term in terms.split(", "):
            phrase = tuple(stem(word) for word in term.split())
            table.setdefault(phrase[0], []).append((phrase, weight))
    # The longest phrase is tried first, so that "pleural effusion" is not also "pleural" and "effusion".
    return {first: tuple(sorted(found, key=lambda entry: -len(entry[0]))) for first, found in table.items()}


_TABLE: Final = _build_table()


def found_terms(text: str) -> dict[str, float]:
    """Distinct terms in a text -> points."""
    stems = [stem(word) for word in words(text)]
    found: dict[str, float] = {}
    position = 0
    while position < len(stems):
        step = 1
        for phrase, weight in _TABLE.get(stems[position], ()):
            if tuple(stems[position : position + len(phrase)]) == phrase:
                found[" ".join(phrase)] = weight
                step = len(phrase)
                break
        position += step
    return found


def text_score(text: str) -> float:
    """Sum of the points of the distinct terms in a text."""
    return sum(found_terms(text).values())


def context_score(article: Article) -> float:
    """What title and MeSH headings add to each passage of an article: 0 to CONTEXT_CAP points."""
    title = text_score(article.title) / 2
    headings = sum(_MESH_POINTS for heading in article.mesh if heading.lower() in _MESH)
    return min(CONTEXT_CAP, max(0.0, title + headings))


def passage_scores(article: Article, passages: Iterable[str]) -> list[float]:
    """Chest relevance of each passage: its own points, and the article's context where it has any of its own."""
    context = context_score(article)
    own = [text_score(passage) for passage in passages]
    return [score + context if score >= 1.0 else score for score in own]
