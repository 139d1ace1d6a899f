"""Does a score see that one word was flipped? Fact agreement against similarity of embeddings and of words.

    python benchmarks/alignment_score.py RUN [--json FILE]        (a run's folder: its teacher gives the embeddings)

Cases: statements about an observation; for each, sentences that say the same in other words, and the sentence with its
polarity, certainty, side, zone, severity or observation changed. A score is good if every paraphrase scores above every
flip: AUC over all cases, and apart for each kind of flip. The sentences are written here; nothing was trained on them.
Baselines: cosine of mean hidden states, and greedy token matching on hidden states as in BERTScore (Zhang et al. 2019,
arXiv:1904.09675, F1 without idf), both on the run's own teacher; ROUGE-L. docs/faithfulness.md shows the table of
benchmarks/alignment_score.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from sklearn.metrics import roc_auc_score

from kdistill.artifact import current_commit
from kdistill.audit.agreement import agreement
from kdistill.evaluation.text import rouge_l
from kdistill.labelers.rules import RuleLabeler
from kdistill.observations import OBSERVATION_TERMS
from kdistill.teacher.statements import SIDES, ZONES, Fact, canonical, of_fact

if TYPE_CHECKING:
    from kdistill.teacher.language_model import LanguageModel

Score = Callable[[str, str], float]

#: What statements are about: observations whose site has sides and zones, and some that have neither.
PLACED: Final = ("Consolidation", "Atelectasis", "Lung Opacity", "Pneumonia", "Lung Lesion")
SIDED: Final = ("Pleural Effusion", "Pneumothorax", "Fracture")
PLAIN: Final = ("Cardiomegaly", "Edema", "Enlarged Cardiomediastinum", "Support Devices")
DEGREES: Final = {"mild": "slight", "moderate": "moderate", "severe": "marked"}


class Case(NamedTuple):
    """A statement, another sentence, and how the two differ ("same": not at all)."""

    statement: str
    other: str
    kind: str


def facts() -> list[Fact]:
    """Facts in turn through sides, zones and severities."""
    found = []
    for number, name in enumerate(PLACED * 2):
        side, zone = SIDES[1 + number % 2], ZONES[1 + number % 3]
        found.append(Fact(name, "present", side, zone, ("mild", "moderate", "severe")[number % 3]))
    for number, name in enumerate(SIDED * 2):
        found.append(Fact(name, "present", SIDES[1 + number % 2], None, ("severe", "mild", "moderate")[number % 3]))
    for number, name in enumerate(PLAIN):
        found.append(Fact(name, "present", None, None, ("mild", "severe")[number % 2]))
    found += [Fact(name, "absent") for name in (*PLACED, *SIDED, *PLAIN)]
    found += [Fact(name, "uncertain", "left", "upper") for name in PLACED]
    return [canonical(fact) for fact in found]


def paraphrases(fact: Fact) -> list[str]:
    """The fact in words that the canonical statement does not use."""
    term = OBSERVATION_TERMS[fact.observation]
    if fact.state == "absent":
        return [f"There is no evidence of {term}.", f"The film shows no {term}.", f"Negative for {term}."]
    degree = DEGREES[fact.severity] + " " if fact.severity else ""
    where = (
        f"in the {fact.side} {fact.zone} zone" if fact.side and fact.zone else f"on the {fact.side}" * bool(fact.side)
    )
    if fact.state == "uncertain":
        return [f"There may be {term} {where}.", f"Findings are suspicious for {term} {where}.".replace(" .", ".")]
    return [
        f"There is {degree}{term} {where}.".replace(" .", "."),
        f"The film shows {degree}{term} {where}.".replace(" .", "."),
    ]


def flipped(fact: Fact) -> list[tuple[str, Fact]]:
    """The fact with one part changed, by kind."""
    other = {"Pleural Effusion": "Pneumothorax"}.get(fact.observation, "Pleural Effusion")
    found = [("observation", canonical(fact._replace(observation=other)))]
    if fact.state == "absent":
        return [*found, ("polarity", fact._replace(state="present"))]
    found.append(("polarity", Fact(fact.observation, "absent")))
    found.append(("certainty", fact._replace(state="uncertain" if fact.state == "present" else "present")))
    if fact.side:
        found.append(("side", fact._replace(side="right" if fact.side == "left" else "left")))
    if fact.zone:
        found.append(("zone", fact._replace(zone="lower" if fact.zone != "lower" else "upper")))
    if fact.severity:
        found.append(("severity", fact._replace(severity="severe" if fact.severity != "severe" else "mild")))
    return found


def cases() -> list[Case]:
    """Every statement against its paraphrases and against paraphrases and statements of its flips."""
    found = []
    for fact in facts():
        statement = of_fact(fact) + "."
        found += [Case(statement, text, "same") for text in paraphrases(fact)]
        for kind, flip in flipped(fact):
            found += [Case(statement, text, kind) for text in (of_fact(flip) + ".", paraphrases(flip)[0])]
    return found


def auc_by_kind(score: Score, items: Sequence[Case]) -> dict[str, float]:
    """AUC of "same" against all flips ("all"), and against the flips of each kind."""
    values = np.array([score(case.statement, case.other) for case in items])
    kinds = np.array([case.kind for case in items])
    same = kinds == "same"
    found = {"all": float(roc_auc_score(same, values))}
    for kind in sorted(set(kinds) - {"same"}):
        rows = same | (kinds == kind)
        found[kind] = float(roc_auc_score(same[rows], values[rows]))
    return found


def fact_agreement() -> Score:
    """The project's own score."""
    labeler = RuleLabeler()
    return lambda one, other: agreement(one, other, labeler) or 0.0


def embedding_scores(teacher: LanguageModel) -> dict[str, Score]:
    """Cosine of mean hidden states, and greedy matching of token states."""
    import torch

    known: dict[str, np.ndarray] = {}

    def states(text: str) -> np.ndarray:
        if text not in known:
            ids = teacher.tokenizer(text, add_special_tokens=False)["input_ids"]
            inputs = torch.tensor([[teacher.tokenizer.bos_token_id, *ids]], device=teacher.device)
            with torch.inference_mode():
                output = teacher.model(input_ids=inputs, output_hidden_states=True, use_cache=False)
            known[text] = output.hidden_states[-1][0, 1:].float().cpu().numpy()
        return known[text]

    def cosine(one: str, other: str) -> float:
        a, b = states(one).mean(0), states(other).mean(0)
        return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))

    def greedy(one: str, other: str) -> float:
        a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (states(one), states(other)))
        similar = a @ b.T
        precision, recall = similar.max(0).mean(), similar.max(1).mean()
        return float(2 * precision * recall / (precision + recall))

    return {"cosine of mean states": cosine, "greedy token matching (as BERTScore)": greedy}


def measured(run: Path) -> dict[str, Any]:
    """Every score's AUC by kind of flip, how many cases each kind has, and whose embeddings the baselines read."""
    from kdistill.teacher.language_model import load

    items = cases()
    scores: dict[str, Score] = {
        "fact agreement": fact_agreement(),
        **embedding_scores(load(str(run / "teacher" / "model"))),
        "ROUGE-L": lambda one, other: float(rouge_l([one], [other])[0]),
    }
    auc = {name: auc_by_kind(score, items) for name, score in scores.items()}
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": current_commit(),
        "cases": len(items),
        "paraphrases": sum(case.kind == "same" for case in items),
        "flips": {kind: sum(case.kind == kind for case in items) for kind in auc["fact agreement"] if kind != "all"},
        "teacher": teacher_of(run),
        "auc": auc,
    }


def teacher_of(run: Path) -> dict[str, str]:
    """What made the teacher: the run's sweep and name, and the commit and identity in its manifest."""
    manifest = json.loads((run / "teacher" / "manifest.json").read_text(encoding="utf-8"))
    where = run.resolve()
    return {
        "run": f"{where.parent.name}/{where.name}",
        "commit": manifest["git_commit"],
        "identity": manifest["identity"],
    }


def table(found: Mapping[str, Any]) -> str:
    """The table of docs/faithfulness.md."""
    kinds = list(found["flips"])
    head = ["score", "all", *(f"{kind} (n = {found['flips'][kind]})" for kind in kinds)]
    lines = [head, *([name, *(f"{row[kind]:.3f}" for kind in ("all", *kinds))] for name, row in found["auc"].items())]
    rows = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([rows[0], "|---" * len(head) + "|", *rows[1:]])


def main() -> None:
    """Print the table, and keep its figures where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run with a trained teacher")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args()
    found = measured(options.run)
    print(f"{found['cases']} cases, {found['paraphrases']} of them paraphrases\n\n{table(found)}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
