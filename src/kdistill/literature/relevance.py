"""How much a text is about the chest and its imaging: points for distinct terms, fewer for terms of other regions.

The weights are a plain list, made for this project by reading; docs/literature.md says how well they do. 4: the
examination itself. 3: enough alone (a finding, sign or device of the chest radiograph). 2: chest anatomy. 1: context
that often goes with it. Negative: another region or discipline that shares words with the chest ("opacity" of the
lens, "effusion" of the knee).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from kdistill.literature.text import stem, words
from kdistill.records import Article

#: Points -> terms of one or more words, compared after folding plurals. The longest term at a place counts alone.
_TERMS: Final = {
    4.0: """
    chest x ray, chest xray, x ray chest, cxr, chest radiograph, chest radiography, chest film, chest roentgenogram,
    chest radiogram, radiograph of the chest, x ray of the chest, radiography of the chest, chest ct, ct chest,
    ct of the chest, ct scan of the chest, chest tomography, chest computed tomography, chest imaging, thoracic ct,
    computed tomography of the chest, thoracic computed tomography, thoracic radiograph, thoracic radiography
    """,
    3.0: """
    pneumothorax, pneumothoraces, hydropneumothorax, hemothorax, haemothorax, pneumomediastinum, chylothorax,
    pleural effusion, pleural thickening, pleural plaque, pleural disease, pleural fluid, pleural drainage, pleurisy,
    pleuritis, empyema thoracis, pleural cavity, pleural space, parietal pleura, visceral pleura, thoracentesis,
    costophrenic, hemidiaphragm, mediastinal shift, widened mediastinum, mediastinal widening, mediastinal mass,
    cardiothoracic ratio, cardiac silhouette, cardiomegaly, cardiac enlargement, enlarged heart, pericardial effusion,
    hilum, hila, hilar lymphadenopathy, hilar adenopathy, air bronchogram, kerley, cephalization, ground glass,
    atelectasis, atelectases, atelectatic, lung collapse, lobar collapse, pulmonary collapse, lobar consolidation,
    pulmonary edema, pulmonary oedema, lung edema, interstitial edema, pulmonary congestion, pulmonary vasculature,
    pneumonia, bronchopneumonia, pneumonitis, lung consolidation, pulmonary consolidation, lung abscess,
    lung opacity, pulmonary opacity, pulmonary infiltrate, lung infiltrate, pulmonary nodule, lung nodule,
    pulmonary mass, lung mass, lung lesion, pulmonary lesion, coin lesion, rib fracture, fractured rib, flail chest,
    clavicle fracture, clavicular fracture, sternal fracture, chest tube, chest drain, thoracostomy, swan ganz,
    endotracheal tube, pulmonary fibrosis, interstitial lung, honeycombing, bronchiectasis, pneumoconiosis, asbestosis,
    silicosis, pulmonary tuberculosis, pulmonary embolism, pulmonary hemorrhage, pulmonary haemorrhage, lung volume,
    cardiomediastinum, lung field, lung base, lung apex, lung apices, lung zone, lung parenchyma,
    acute respiratory distress syndrome, ards
    """,
    2.0: """
    lung, pulmonary, pleura, pleural, mediastinum, mediastinal, hilar, thorax, thoracic, intrathoracic, lingula,
    bronchus, bronchi, bronchial, bronchiole, trachea, carina, tracheobronchial, pneumonectomy, lobectomy, diaphragm,
    rib, sternum, clavicle, rib cage, consolidation, perihilar, retrocardiac, sarcoidosis, emphysema, copd,
    chronic obstructive pulmonary disease, chronic bronchitis, bronchiolitis, tuberculosis, subcutaneous emphysema,
    upper lobe, middle lobe, lower lobe, heart size, hyperinflation, aortic knob, pacemaker, central venous catheter,
    central line, nasogastric tube, pericardium, pericardial
    """,
    1.5: "chest, heart failure, aortic arch, pericarditis, alveoli, lung cancer, bronchodilator, radiograph",
    1.0: """
    pulmonary artery, pulmonary arteries, pulmonary vein, pulmonary valve, pulmonary trunk, pulmonary circuit,
    pulmonary hypertension, pulmonary function, lung function, pulmonary circulation, pulmonary arterial, respiratory,
    dyspnea, dyspnoea, shortness of breath, cough, hemoptysis, haemoptysis, hypoxia, hypoxemia, radiographic,
    radiological, x ray, cardiomyopathy, infiltrate, opacity, effusion, edema, oedema, nodule, collapse, fibrosis,
    catheter, alveolar, airway, breath sound, crackle, tachypnea, aspiration
    """,
    0.5: "heart, cardiac, left ventricular, left atrial, aorta, aortic, ventilation, intubation, asthma, congestion",
    -1.0: """
    brain, cerebral, intracranial, skull, pelvis, pelvic, bladder, kidney, renal, liver, hepatic, pancreas, pancreatic,
    gallbladder, colon, bowel, intestine, intestinal, ileum, appendix, spleen, abdominal ct, foot, lumbar,
    cervical spine, thoracic spine, thoracic vertebra, spinal cord, breast, mammography, hand, finger,
    ejection fraction, blood pressure, exercise, dose, mg, myocardial infarction, hypertension, coronary artery,
    echocardiography, echocardiographic, transesophageal, valve, atrial fibrillation, electrocardiogram, angina
    """,
    -1.5: """
    mouse, mice, rat, murine, zebrafish, drosophila, in vitro, gene expression, cell line, genome, mrna, receptor,
    placebo, randomized, randomised, double blind, beta blocker, ace inhibitor, converting enzyme, antagonist
    """,
    -2.0: """
    dental, tooth, teeth, mandible, mandibular, maxilla, maxillary, periodontal, alveolar bone, alveolar ridge, cornea,
    corneal, retina, retinal, macular, cataract, optic nerve, ocular, eye, eyelid, orbital, orbit, knee, hip, ankle,
    wrist, femur, femoral head, tibia, tibial, humerus, radius, elbow, shoulder joint, meniscus, uterus, uterine,
    ovary, ovarian, cervix, fetus, fetal, placenta, testis, testicular, prostate, scrotum, middle ear, cochlea,
    cochlear, sinus floor, tonsil, thyroid nodule, parotid, nasal cavity, paranasal sinus, splenic hilum, renal hilum,
    hepatic hilum
    """,
}

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
    for weight, terms in _TERMS.items():
        for term in terms.split(","):
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


def has_chest_heading(article: Article) -> bool:
    """Whether a MeSH heading says that the article is about the chest."""
    return any(heading.lower() in _MESH for heading in article.mesh)


def passage_scores(article: Article, passages: Iterable[str]) -> list[float]:
    """Chest relevance of each passage: its own points, and the article's context where it has any of its own."""
    context = context_score(article)
    own = [text_score(passage) for passage in passages]
    return [score + context if score >= 1.0 else score for score in own]
