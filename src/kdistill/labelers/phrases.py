"""What the rule labeler reads: phrases as data, nothing else.

Syntax: phrases are separated by "|"; `*` ends a word in any letters ("atelecta*"); a blank matches white space or a
hyphen. The longest phrase that fits wins, so a longer phrase "un-mentions" a shorter one inside it.

The vocabulary of MENTIONS and ABNORMAL was informed by the phrase lists of the CheXpert labeler (phrases/mention,
phrases/unmention; github.com/stanfordmlgroup/chexpert-labeler; MIT licence, Copyright (c) 2018 Stanford Machine
Learning Group). The cues for negation, uncertainty, history and scope are our own, as are all rules that use them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: A noun phrase that states the observation when nothing negates or hedges it. "+" joins two observations.
MENTIONS: Final[Mapping[str, str]] = {
    "No Finding": """no acute abnormalit* | no acute cardiopulmonary abnormalit*
        | no acute cardiopulmonary process* | no acute cardiopulmonary disease*
        | no acute cardiopulmonary finding* | no acute cardiopulmonary pathology | no acute process*
        | no acute disease* | no acute finding* | no acute pulmonary disease | no active disease
        | no acute pulmonary process | no acute pulmonary abnormalit* | no active cardiopulmonary disease
        | no acute intrathoracic process | no acute intrathoracic abnormalit* | no acute radiographic abnormalit*
        | no active pulmonary disease | no evidence of active disease | no evidence of acute disease | no finding
        | no abnormalit* | normal chest | normal study | normal examination | normal exam | unremarkable chest
        | chest is normal | chest is unremarkable | negative chest | no evidence of acute cardiopulmonary disease
        | no evidence of acute cardiopulmonary process | no acute cardiac or pulmonary disease
        | no acute cardiopulmonary abnormality | normal chest radiograph* | normal chest x ray
        | no acute cardiopulm*""",
    "Enlarged Cardiomediastinum": """enlarged cardiomediastinum | enlarged cardiomediastinal silhouette
        | cardiomediastinal enlargement | enlargement of the cardiomediastinum | widened mediastinum
        | wide mediastinum | mediastinal widening | mediastinal enlargement | widening of the mediastinum
        | widening of mediastinum | enlarged mediastinum | prominent mediastinum | mediastinal prominence
        | mediastinal mass* | enlarged mediastinal contour* | enlarged mediastinal silhouette
        | widened mediastinal contour* | widening of the superior mediastinum | superior mediastinal widening""",
    "Cardiomegaly": """cardiomegaly | cardiac enlargement | enlarged heart | heart enlargement
        | enlarged cardiac silhouette | enlarged heart size | heart is enlarged | biventricular enlargement
        | left ventricular enlargement | ventricular enlargement | atrial enlargement
        | cardiac silhouette enlargement | cardiac silhouette is enlarged | large heart | increase in heart size
        | increased heart size | increase in size of the heart | megacardia | cardiac chamber enlargement
        | enlargement of the heart | enlargement of heart | interval increase in heart size
        | interval increase in cardiac size | interval increase in size of the heart | increase in cardiac size""",
    "Lung Lesion": """lung lesion* | pulmonary lesion* | mass | masses | masslike | mass like | nodule*
        | nodular densit* | nodular opacit* | nodular opacification* | lump | lumps | cavitary lesion*
        | carcinoma* | neoplas* | tumor* | tumour* | lung cancer | malignan* | cavitary mass | pulmonary mass*
        | lung mass* | lung nodule* | cavitary focus | noncalcified nodule* | non calcified nodule* | lesion*
        | cavity | cavitation | cavitating lesion* | metastatic nodule* | micronodul* | nodularit*""",
    "Lung Opacity": """lung opacit* | opacit* | opacification* | opacified | decreased translucency
        | increased densit* | airspace disease* | air space disease* | airspace process* | air space process*
        | airspace opacit* | air space opacit* | infiltrat* | interstitial marking* | interstitial pattern*
        | interstitial lung | interstitial lung disease | interstitial disease | interstitial thickening
        | interstitial prominence | interstitial change* | reticular pattern* | reticular marking* | reticulation*
        | reticulonodular* | parenchymal scar* | peribronchial thickening | bronchial wall thickening
        | wall thickening | scar | scars | scarring | airspace densit* | air space densit* | patchy densit*
        | hazy densit* | pulmonary densit* | focal densit* | ground glass | haziness | parenchymal disease
        | focal pulmonary disease | focal lung disease | focal air space disease | focal airspace disease
        | bronchopulmonary marking* | bronchovascular marking* | parenchymal process* | acute air space disease
        | whiteout | white out | basilar densit* | streaky densit* | alveolar disease | alveolar process*
        | air bronchogram* | linear densit* | increased lung marking* | increased pulmonary marking*
        | prominent lung marking* | prominent pulmonary marking* | prominence of lung marking*
        | increased marking* | coarsened marking* | coarse marking* | is opaque | are opaque | totally opaque
        | completely opaque""",
    "Edema": """edema | oedema | edematous | heart failure | chf | vascular congestion | pulmonary congestion
        | congestive heart failure | congestive failure | congestive change* | indistinctness
        | vascular prominence | pulmonary vascular congestion | pulmonary venous congestion | venous congestion
        | kerley * lines | kerley lines | b lines | vascular engorgement | volume overload | fluid overload
        | interstitial edema | pulmonary edema | alveolar edema | pulmonary oedema | cardiac decompensation
        | septal thickening | septal lines | vascular indistinctness | vascular fullness | central congestion
        | congestion""",
    "Consolidation": """consolidat* | airspace consolidation | air space consolidation""",
    "Pneumonia": """pneumonia* | pneumonic* | bronchopneumonia* | pneumonitis | infection* | infectious process*
        | infectious | infectious infiltrate* | infectious etiolog* | infective*""",
    "Atelectasis": """atelecta* | collapse | collapsed | lobar collapse | lung collapse | subsegmental atelecta*
        | plate like atelecta* | platelike atelecta* | discoid atelecta*""",
    "Pneumothorax": """pneumothora* | pneumothoraces | ptx | pleural air | pleural air collection* | pleural gas
        | hydropneumothora* | hemopneumothora* | pneumothoracis""",
    "Pleural Effusion": """pleural effusion* | effusion* | pleural fluid | hydrothora* | hemothora*
        | hydropneumothora* | hemopneumothora* | haemothora* | empyema* | pleural collection* | subpulmonic fluid
        | parapneumonic effusion* | fluid in the fissure* | fluid in the minor fissure
        | fluid in the major fissure | pleural based fluid""",
    "Pleural Other": """pleural thickening | pleural abnormalit* | other pleural abnormalit* | pleural scar*
        | fibrothora* | pleural parenchymal scar* | pleuro parenchymal scar* | pleuroparenchymal scar*
        | pleuro pericardial scar* | pleural plaque* | pleural calcification* | calcified pleural plaque*
        | thickening of the pleura | apical pleural thickening | pleural other | pleural fibrosis
        | pleural opacit* | pleural densit* | fissural thickening | thickened fissure* | thickened minor fissure
        | thickened major fissure | thickening of the fissure* | thickening of the minor fissure
        | thickening of the major fissure | thickening of the interlobar fissure* | pleural disease
        | apical cap* | apical capping | pleural based opacit* | pleural reaction | pleural parenchymal thickening
        | biapical thickening | apical thickening | pleural parenchymal disease | fibrosis | pulmonary fibrosis""",
    "Fracture": """fracture* | fractured | fx | broken rib*""",
    "Support Devices": """support device* | supporting device* | pacer* | pacemaker* | line | lines
        | central line* | picc | picc line* | tube | tubes | tubing | chest tube* | endotracheal tube* | et tube
        | ett | ngt | nasogastric tube* | enteric tube* | feeding tube* | dobbhoff | dobhoff | valve | valves
        | valve replacement | prosthetic valve* | catheter* | hardware | arthroplast* | icd | aicd | defib*
        | device* | drain | drains | pigtail* | plate | plates | screw* | cannula* | apparatus | coil | coils
        | equipment | mediport* | port | port a cath* | portacath* | infuse port | chemotherapy port | infusaport
        | swan ganz | intra aortic balloon pump | balloon pump | iabp | lvad | tracheostomy | stent | stents
        | stimulator* | prosthes* | prosthetic | shunt | vp shunt | generator | neurostimulator*
        | introducer sheath | ivc filter* | vena cava filter* | filter* | bone anchor* | septal occluder*
        | catheter fracture* | fractured catheter* | sheath | ij catheter* | pacing lead* | pacer lead*
        | pacemaker lead* | icd lead* | lead | leads | electrode* | rod | rods | fixation | surgical plate*
        | implant* | loop recorder""",
}

#: Phrases that contain a mention's words but mean something else.
UNMENTIONS: Final = """massive | massively | mass effect | pleural line | pleural lines | midline | tree
    | nipple shadow* | collapse of the vertebral bod* | vertebral collapse | vertebral body collapse
    | collapsed vertebra* | line of sight | in line with | fissure line | paraspinal line | paraspinal lines
    | paratracheal line | mediastinal lines | on the port | portable | support the diagnosis
    | heart valve calcification | nearly resolved | partially resolved | near complete resolution of
    | partial resolution of | almost resolved | almost completely resolved | nearly completely resolved
    | near completely resolved | mostly resolved | largely resolved | incompletely resolved | not resolved
    | not completely resolved | not fully resolved | not entirely resolved | not yet resolved
    | infection control | infectious symptoms | tumor marker*
    | hardware artifact | leading | breast implant* | suture line* | valve surgery | lung lines
    | fracture* may not be | lumpectomy | lead to | skin lesion* | healing well | no evidence of acute infection"""

#: Abnormal, but none of the 14: blocks "No Finding" (as the CheXpert labeler does) and sets no label.
ABNORMAL: Final = """emphysema* | blunt* | elevation | elevated | eventration | scolio* | degenera*
    | degenerative change* | calcifi* | calcified nodule* | calcified granuloma* | calcified lesion*
    | calcified mass* | calcified pulmonary nodule* | calcified lung nodule* | calcified lymph node*
    | calcific densit* | hyperinflat* | bronchospas* | asthma | hernia* | copd
    | chronic obstructive pulmonary disease | plaque* | osteophyt* | bronchiolitis | airways disease
    | airway disease | thickening | cephalization | aspiration | bulla | bullae | bullous | contusion*
    | atherosclero* | osteopeni* | osteoporo* | granuloma* | granulomatous | pneumomediastinum | pneumoperitoneum
    | free air | free intraperitoneal air | osteodystrophy | cuffing | irregular lucency | lucency | inflam*
    | hypertension | kyphos* | kyphot* | hyperexpan* | hyperlucen* | bullet* | reticula* | bronchitis
    | volume loss | deformit* | hemorrhag* | hematoma* | radiopaque | foreign bod* | arthropath* | arthritis
    | arthritic | pericardial effusion* | pericardial fluid | joint effusion* | lymphadenopathy | adenopathy
    | bronchiecta* | tuberculosis | spondylo* | compression deformit* | wedging | dislocat* | subluxation
    | ectasia | ectatic | aneurysm* | dissection | tortuo* | uncoiled | unfold* | low lung volumes | low volumes
    | volumes are low | low volume lungs | lung volumes are low | lung volumes remain low | low volume chest
    | hypoinflat* | hypoventilat* | subcutaneous emphysema | subcutaneous air | cyst | cysts | cystic | sclerosis
    | sclerotic | nodal calcification | mastectomy | lobectomy | pneumonectomy | sarcoid* | pectus
    | tracheal deviation | mediastinal shift | shift | pulmonary embol* | embolism | infarct* | bony lesion*
    | lytic lesion* | bone lesion* | osseous lesion* | soft tissue mass* | fullness | prominence
    | sclerotic lesion* | granulomatous infection* | prior infection* | previous infection* | old infection*
    | remote infection* | chest wall mass* | breast mass* | calcific nodular densit* | calcified nodular densit*
    | calcified nodular opacit* | bronchovascular crowding | vascular crowding | crowding | blastic lesion*
    | metastas* | metastatic disease | levoscolio* | dextroscolio* | levocurvature | dextrocurvature
    | levo curvature | dextro curvature | syndesmophyt* | hyperaerat* | hyperdisten* | underinflat*
    | increased lung volume* | flattened diaphragm* | flattened hemidiaphragm* | flattening of the diaphragm*
    | flattening of the hemidiaphragm* | chronic lung disease* | breast carcinoma* | breast lesion*
    | breast nodule* | renal cell carcinoma* | prostate carcinoma* | thyroid carcinoma* | thyroid nodule*
    | thyroid mass* | hepatic lesion* | liver lesion* | renal mass* | renal lesion*"""

#: What a predicate can be said of. Vessels called enlarged are read as edema (as "vascular prominence" is in CheXpert);
#: vessels called normal say nothing. "" absorbs the predicate without setting a label.
SUBJECTS: Final[Mapping[str, str]] = {
    "Cardiomegaly": """heart | hearts | heart size | cardiac size | cardiac silhouette* | cardiac shadow
        | cardiac contour* | heart contour* | heart silhouette | heart shadow | cardiac outline | cardiac border*
        | heart border* | cardiopericardial silhouette | cardiac structure*""",
    "Enlarged Cardiomediastinum": """cardiomediastin* | cardiomediastinal silhouette* | cardiomediastinal contour*
        | cardio mediastinal silhouette | mediastinum | mediastinal contour* | mediastinal silhouette
        | mediastinal structure* | mediastinal configuration | mediastinal shadow | superior mediastinum
        | contours | mediastinal and hilar contour* | hilar and mediastinal contour*
        | hilar and cardiomediastinal contour* | cardiomediastinal and hilar contour* | cardiomediastinal size
        | mediastinal and cardiac contour* | mediastinal width | pericardial silhouette
        | cardiac mediastinal contour* | cardiac mediastinal silhouette | cardiac and mediastinal contour*
        | cardiac and mediastinal silhouette*""",
    "Edema": """pulmonary vascular* | pulmonary vasculature | central pulmonary vasculature | vascular*
        | vascular marking* | vasculature | pulmonary vessels | central pulmonary vessels | perihilar vessels
        | perihilar vasculature | lung vascular* | lung vasculature""",
    "Lung Opacity": """pulmonary marking* | lung marking*""",
    "": """mediastinal | lung | lungs | lung field* | lung volume* | volumes | lung base* | aorta | aortic
        | aortic arch | aortic knob | hila | hilar | hilum | hilar structure* | hilar contour* | aortic contour*
        | pulmonary arter* | bones | osseous | bony | bony structure* | osseous structure* | skeletal
        | thoracic spine | spine | trachea | tracheal | diaphragm* | hemidiaphragm* | abdomen | upper abdomen
        | soft tissue* | pleural space* | pleura | pleural | costophrenic | ribs | rib | airway | airways
        | lymph node* | nodes | thyroid | azygos | fissure* | stomach | bowel | paratracheal stripe | markings""",
}
BOTH_HEART_AND_MEDIASTINUM: Final = "cardiac and mediastinal | heart and mediastinal | cardiac mediastinal"

#: Predicates of a subject.
ENLARGED: Final = """enlarged | enlargement | enlarging | prominent | widened | widening | dilated
    | increased in size | large | big | engorged | congested | indistinct | increased"""
BORDERLINE: Final = """borderline | borderline enlarged | borderline in size | borderline enlargement
    | accentuated | borderline prominent | borderline size"""
NORMAL: Final = """normal | top normal | upper limits of normal | upper limits normal | upper limit of normal
    | high normal | upper normal | upper limits | unremarkable | within normal limits | wnl | clear | intact
    | within normal | not enlarged | grossly normal | not widened | not prominent | not dilated | nonenlarged
    | non enlarged | normally"""

#: Says something of a subject that sets no label; the next subject starts a new group.
NEUTRAL: Final = """stable | unchanged | similar | midline | not changed | not significantly changed
    | unremarkable for age"""

#: Cues. A "before" cue works on what follows it, an "after" cue on what precedes it.
NEGATION_BEFORE: Final = """no | not | without | negative for | free of | clear of | absence of | denies | neither
    | nor | never | rather than | resolution of | interval resolution of | removal of | interval removal of
    | clearing of | interval clearing of | lack of | no evidence of | no sign of | no signs of | not have
    | fails to show | free from | devoid of | instead of | exclusion of | no longer | none of the
    | nonvisualization of | rules out | excludes"""
NEGATION_AFTER: Final = """not seen | not identified | not visualized | not visualised | not present | not evident
    | not appreciated | not demonstrated | not observed | not detected | not noted | not apparent | not found
    | not visible | not suspected | not definitely seen | not clearly seen | not well seen | not well visualized
    | not well visualised | no longer well seen | no longer seen | no longer present | no longer visualized
    | no longer visualised | no longer identified | no longer evident | no longer visible | no longer apparent
    | no longer appreciated | no longer noted | has resolved | have resolved | had resolved | resolved
    | is resolved | completely resolved | has been removed | have been removed | was removed | were removed
    | removed | has cleared | have cleared | cleared | absent | is absent | are absent | none | is excluded
    | are excluded | is ruled out | unlikely | is unlikely | are unlikely | has disappeared | have disappeared
    | none seen | none identified | disappeared | been extracted | been withdrawn | felt unlikely
    | has completely resolved | have completely resolved | is no longer | are no longer"""
UNCERTAIN_BEFORE: Final = """possible | possibly | maybe | correlate for | correlate clinically for
    | clinically correlate for | correlation for | clinical correlation for | probable | probably | likely | may
    | might | could | perhaps | potential | potentially | presumed | presumably | suspected | suspicious for
    | suspicion for | suspicion of | suspect | concerning for | concern for | question of | questionable
    | question | equivocal | suggest* | suggestive of | cannot exclude | can not exclude | not exclude
    | cannot rule out | not rule out | unable to exclude | difficult to exclude | rule out | r o | to exclude
    | exclude | indeterminate | less likely | more likely | most likely | favor* | favour* | worrisome for
    | consider | consideration of | conceivably | apparent | cannot entirely exclude
    | cannot completely exclude | felt to represent | thought to represent | thought to be | believed to represent
    | raising concern for | raises concern for | raise concern for | raises the possibility of
    | raising the possibility of | possibility of | uncertain | as if
    | unclear if | unclear whether | uncertain if | uncertain whether | question whether
    | question if | concerning findings for | suspicious findings for | would be difficult to exclude
    | appear* to represent"""
UNCERTAIN_AFTER: Final = """cannot be excluded | can not be excluded | not excluded | not be excluded
    | is not excluded | cannot be ruled out | not be ruled out | not ruled out | is possible | are possible
    | is suspected | are suspected | is questioned | is likely | are likely | is probable | is uncertain
    | is a possibility | is a consideration | is another consideration | is a differential consideration
    | is in the differential | remains in the differential | in the differential | is considered
    | should be considered | could be considered | may be present | might be present | could be present
    | is difficult to exclude | difficult to exclude | are difficult to exclude | may be considered
    | cannot be entirely excluded | cannot be completely excluded | not entirely excluded
    | not completely excluded | is of concern | is questionable | be difficult to exclude
    | would be difficult to exclude | is indeterminate | are indeterminate | not be entirely excluded
    | not be completely excluded | is less likely"""
#: A hedge that reaches over commas: everything in the list is only possible.
DIFFERENTIAL: Final = """differential | differential diagnosis | differential diagnoses | differential includes
    | differential including | differential diagnosis includes | differential diagnosis including
    | differential considerations include | differential considerations | considerations include"""
#: What follows is not about this image.
HISTORY_BEFORE: Final = """history of | h o | hx of | evaluate for | evaluation for | evaluation of | assess for
    | assessment for | assessment of | evaluate | to evaluate | looking for | known history of | hx | workup for
    | screening for | concern about | for evaluation of | sensitivity for | for assessment of | treatment for
    | treatment of | if | if there is | if there are | if there remains"""
#: "no change in the effusion" leaves the effusion: the word takes the negation away.
CHANGE: Final = """change | changes | changed | increase in | interval increase in | increase | decrease in
    | progression | progression of | worsening | worsening of | difference | improvement in | improvement of
    | improvement | changing | doubt | significant change | interval change | significant interval change
    | decrease | alteration | evolution | enlargement of the known | convincing change"""
#: Ends every scope.
BREAKS: Final = """but | however | although | though | except | except for | other than | aside from | apart from
    | besides | with | which | that is | that are | there is | there are | there has been | there have been
    | otherwise | while | whereas | yet | status post | nevertheless | in the setting of | superimposed on
    | as well as | where | given | demonstrates | demonstrate | shows | show | reveals"""
#: Contain a break's word but join a finding to its reading: no scope ends here.
JOINS: Final = (
    "consistent with | compatible with | associated with | in keeping with | in association with | along with"
)
OR: Final = "or | and or | and/or"
VERSUS: Final = "versus | vs"
AND: Final = "and | plus"
#: After a comma or "and", these start a fresh statement ("no effusion, mild cardiomegaly").
ASSERTS: Final = """small | mild | mildly | moderate | minimal | stable | persistent | unchanged | trace | tiny
    | slight | increased | increasing | worsening | improved | improving | decreased | decreasing | chronic | old
    | multiple | scattered | healed | healing | severe | redemonstrated | again | bibasilar | a | the | an | there
    | this | these | continued | interval | has | have | prior | previously | it | is | are | low | elevated
    | bilateral"""
#: These hedge the finding before them when nothing follows ("pneumonia possible").
TRAILING_HEDGES: Final = "possible | suspected | questionable | likely | probable | questioned"
