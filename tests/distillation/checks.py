"""Facts that the objective rests on, as plain functions: the positive tests and the mutation tests call the same ones.

Everything is looked up through its module when a check runs, so that a mutation put there is seen.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from torch.nn import functional

from kdistill.distillation import (
    alignment,
    collate,
    consistency,
    counterfactual,
    divergences,
    draws,
    inpainting,
    labels,
    objective,
    on_policy,
    regions,
)
from kdistill.distillation.config import (
    ConsistencyConfig,
    CounterfactualConfig,
    DistillationConfig,
    DivergenceConfig,
    OnPolicyConfig,
)
from kdistill.observations import FINDINGS, INDEX, OBSERVATIONS
from kdistill.records import Study, StudyImage
from kdistill.student.queries import ObservationOutput
from kdistill.teacher import targets as teacher_targets
from kdistill.teacher.statements import Fact, canonical

from .parts import Parts

NAN = float("nan")


def random_logs(rows: int, events: int, seed: int) -> torch.Tensor:
    """Log-probabilities in float64."""
    scores = 3 * torch.randn(rows, events, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.log_softmax(scores, -1)


def loop_divergence(p_logs: list[float], q_logs: list[float], kind: str, beta: float, tau: float) -> float:
    """tau^2 D of tempered distributions, one event after the other."""
    p, q = (_tempered([math.exp(value) for value in logs], tau) for logs in (p_logs, q_logs))
    match kind:
        case "forward_kl":
            value = _kl(p, q)
        case "reverse_kl":
            value = _kl(q, p)
        case _:
            mixture = [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]
            value = beta * _kl(p, mixture) + (1 - beta) * _kl(q, mixture)
    return tau**2 * value


def _tempered(values: list[float], tau: float) -> list[float]:
    powers = [value ** (1 / tau) for value in values]
    return [power / math.fsum(powers) for power in powers]


def _kl(p: list[float], q: list[float]) -> float:
    return math.fsum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True) if a > 0)


def _equals_the_loop(kind: str, beta: float, tau: float, events: int) -> None:
    teacher, student = random_logs(3, events, 0), random_logs(3, events, 1)
    found = divergences.divergence(teacher, student, kind=kind, beta=beta, temperature=tau)
    expected = [loop_divergence(p, q, kind, beta, tau) for p, q in zip(teacher.tolist(), student.tolist(), strict=True)]
    # Two float64 sums of some hundred terms: 5e-15 seen.
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-11)


def check_order_of_kl() -> None:
    """forward_kl is KL(teacher, student), reverse_kl KL(student, teacher), on a full vocabulary."""
    for kind in ("forward_kl", "reverse_kl"):
        _equals_the_loop(kind, 0.5, 1.0, 340)


def check_share_of_jsd() -> None:
    """Beta is the teacher's share in the mixture and the weight of its divergence, on a full vocabulary."""
    for beta in (0.1, 0.5, 0.8):
        _equals_the_loop("generalized_jsd", beta, 1.0, 340)


def check_square_of_temperature() -> None:
    """Values carry tau^2, on the few events of the cache and on a full vocabulary."""
    for tau in (0.7, 1.5, 3.0):
        for events in (17, 340):
            _equals_the_loop("generalized_jsd", 0.5, tau, events)
            _equals_the_loop("forward_kl", 0.5, tau, events)


def check_on_policy_loss() -> None:
    """The student's own texts: KL(teacher, student) as a mean over each text's tokens, summed over texts."""
    teacher, student = random_logs(5, 60, 2), random_logs(5, 60, 3)
    tokens = torch.tensor([[1, 2, 3], [4, 5, -100]])
    settings = DivergenceConfig(kind="forward_kl", temperature=1.5)
    each = [
        loop_divergence(p, q, "forward_kl", 0.5, 1.5) for p, q in zip(teacher.tolist(), student.tolist(), strict=True)
    ]
    expected = math.fsum(each[:3]) / 3 + math.fsum(each[3:]) / 2
    found = float(on_policy.on_policy_loss(teacher, student, tokens, settings))
    assert math.isclose(found, expected, rel_tol=1e-5), (found, expected)  # float32 inside


def check_targets_follow_their_inputs() -> None:
    """The target of a position is the token after it, and the padding has none."""
    text = collate.pad([[3, 7, 8, 9, 2], [3, 5, 2]])
    np.testing.assert_array_equal(text["input_ids"], [[3, 7, 8, 9], [3, 5, 0, 0]])
    np.testing.assert_array_equal(text["next_tokens"], [[7, 8, 9, 2], [5, 2, -100, -100]])


def check_uncertain_policy() -> None:
    """An uncertain label becomes what the policy says, and masked is masked."""
    states = dict.fromkeys(OBSERVATIONS) | {"Edema": -1, "Fracture": 1, "Pneumonia": 0}
    study = Study(study_id="s", patient_id="p", split="train", images=(StudyImage(image_path="x", row=0),))
    for policy, expected in (("positive", 1.0), ("negative", 0.0), ("masked", NAN)):
        config = DistillationConfig(uncertain=policy)
        row = labels.label_targets([study], {"s": states}, config, lambda name, n: None)[0]
        np.testing.assert_array_equal(row[[INDEX["Edema"], INDEX["Fracture"], INDEX["Pneumonia"]]], [expected, 1, 0])


#: What a flip of each attribute may turn a fact's own value into, where the fact states one.
FLIPPED_TO: dict[str, tuple[str, ...]] = {
    "side": ("left", "right", "bilateral"),
    "zone": ("upper", "middle", "lower"),
    "severity": ("mild", "moderate", "severe"),
}


def opposites(fact: Fact) -> dict[str, list[Fact]]:
    """What has to stand against a fact, by what was changed in it; written out here, not asked of the code."""
    if fact.observation not in FINDINGS:
        return {"observation": [Fact(name, "present") for name in FINDINGS]}
    denial, affirmation = Fact(fact.observation, "absent"), Fact(fact.observation, "present")
    found = {"polarity": [affirmation if fact.state == "absent" else denial]}
    for attribute, values in FLIPPED_TO.items():
        own = getattr(fact, attribute)
        if own is not None:
            found[attribute] = [fact._replace(**{attribute: value}) for value in values if value != own]
    others = [name for name in FINDINGS if name != fact.observation]
    found["observation"] = [canonical(fact._replace(observation=name)) for name in others]
    return found


def check_bank_holds_the_opposite() -> None:
    """Every statement competes with those that differ in polarity, side, zone, severity or observation alone.

    Each is a row of the bank and a named negative; side, zone and severity where the fact states them.
    """
    bank = teacher_targets.StatementBank()
    changed: set[str] = set()
    for fact in bank.facts:
        named = set(teacher_targets.flips(fact))
        assert fact not in named and named <= bank.row.keys(), f"a hard negative of {fact} is no other row"
        for attribute, expected in opposites(fact).items():
            changed.add(attribute)
            assert set(expected) <= bank.row.keys(), f"the bank lacks {fact} with another {attribute}"
            assert set(expected) <= named, f"{fact} with another {attribute} is no hard negative"
    assert changed == {"polarity", "observation", *FLIPPED_TO}


def check_semantic_pulls_to_its_own_statement() -> None:
    """A query on its statement costs less than on any other, by hand."""
    bank = torch.eye(3, dtype=torch.float64)
    loss = alignment.info_nce(bank, bank, torch.arange(3), 0.5)
    expected = math.log(math.exp(2) + 2) - 2
    np.testing.assert_allclose(loss.numpy(), [expected] * 3, atol=1e-12)


def check_region_lies_where_the_side_is() -> None:
    """A right effusion lies low and, since the patient faces the reader, on the left of the image."""
    masks = regions.RegionTable([regions.Region("Pleural Effusion", "right", None)]).masks(64)
    mask = masks.reshape(8, 8)
    centre = torch.arange(8) + 0.5
    row, column = (float((mask.sum(1 - axis) * centre).sum() / mask.sum()) for axis in (0, 1))
    assert row > 4.5 and column < 3.5, (row, column)


def check_attention_inside_the_region() -> None:
    """The where term is the logarithm of the mass inside, by hand."""
    attention, masks = torch.tensor([[0.1, 0.2, 0.3, 0.4]]), torch.tensor([[1.0, 0.0, 0.5, 0.0]])
    assert math.isclose(float(regions.outside_loss(attention.log(), masks)), -math.log(0.25), rel_tol=1e-5)


def check_unknown_labels_are_masked() -> None:
    """An unknown label adds nothing, whatever the logit."""
    logits, targets = torch.tensor([[0.0, 2.0, NAN]]), torch.tensor([[1.0, NAN, NAN]])
    assert math.isclose(float(objective.label_loss(logits, targets)), math.log(2), rel_tol=1e-6)


def check_unstated_sides_are_masked() -> None:
    """A side that is not stated adds nothing."""
    logits = torch.tensor([[[1.0, 0.0, 0.0], [9.0, 0.0, 0.0]]])
    found = float(objective.side_loss(logits, torch.tensor([[0, -1]])))
    assert math.isclose(found, math.log(math.e + 2) - 1, rel_tol=1e-5), found


def check_consistency_by_hand() -> None:
    """KL(head, text): zero where they agree, its value elsewhere, and no gradient to the head."""
    head = torch.tensor([0.4, 2.0], requires_grad=True)
    text = torch.tensor([0.4, -1.0], requires_grad=True)
    loss = consistency.consistency_loss(head, text)
    p, q = (1 / (1 + math.exp(-value)) for value in (2.0, -1.0))
    expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    np.testing.assert_allclose(loss.detach().numpy(), [0.0, expected], atol=1e-6)
    loss.sum().backward()
    assert head.grad is None, "the head follows the text"
    np.testing.assert_allclose(text.grad.numpy(), [0.0, q - p], atol=1e-6)


def check_removed_pixels_are_gone() -> None:
    """On an even background nothing is left of what was removed, and nothing far from it changes."""
    image = torch.full((1, 1, 64, 64), 0.5)
    image[..., 24:40, 8:20] = 4.0
    mask = torch.zeros(1, 64, 64)
    mask[:, 24:40, 8:20] = 1
    changed = inpainting.inpaint(image, mask)
    np.testing.assert_allclose(changed.numpy(), 0.5, atol=1e-5)  # 1e-7 seen: one weighted mean of equal numbers
    assert torch.equal(changed[..., 40:], image[..., 40:])


def observed(logits: torch.Tensor, log_attention: torch.Tensor) -> ObservationOutput:
    """What `counterfactual_loss` reads."""
    return ObservationOutput(torch.zeros(0), logits, torch.zeros(0), log_attention)


def check_counterfactual_by_hand() -> None:
    """-log(1 - p') of the removed one, mean squared drift of those that look elsewhere, no gradient to before."""
    attention = torch.full((1, 14, 16), 0.02)
    attention[:, :, 15] = 0.70
    attention[:, 2] = attention[:, 2].flip(-1)  # looks at patch 0, which goes
    attention[:, 3] = attention[:, 2]  # and so does 3: it may change
    before = torch.zeros(1, 14).requires_grad_()
    after = torch.zeros(1, 14)
    after[:, [0, 2, 3]] = torch.tensor([5.0, 1.0, 9.0])
    after[:, 4] = 2.0
    after.requires_grad_()
    settings = CounterfactualConfig(mass=0.6, overlap=0.1)
    loss = counterfactual.counterfactual_loss(
        observed(before, attention.log()), observed(after, attention.log()), torch.tensor([2]), settings
    )
    # Eleven others stay: all but "No Finding" (0), the removed (2) and 3. Only 4 drifted, by 2.
    assert math.isclose(loss.item(), math.log1p(math.e) + 4 / 11, rel_tol=1e-5), loss
    loss.sum().backward()
    assert before.grad is None and bool((after.grad[0, [0, 3]] == 0).all())


def check_evidence_is_the_top_mass() -> None:
    """The fewest patches that reach the mass, the strongest first, within the largest area."""
    attention = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.25, 0.25, 0.25, 0.25]])
    found = counterfactual.top_mass(attention, 0.6, 0.5)
    np.testing.assert_array_equal(found, [[False, True, False, True], [True, True, False, False]])


def check_draws_are_the_studys_own() -> None:
    """What a step draws for a study depends on neither its neighbours nor on what was drawn before; steps differ."""
    settings = (
        OnPolicyConfig(share=1.0, max_new_tokens=5),
        ConsistencyConfig(share=0.5),
        CounterfactualConfig(share=0.5),
    )
    statements = [() if not n else ([3, n, 4], [3, n]) for n in range(14)]
    draw = draws.StepDraws(7, *settings, statements)

    def found(studies: list[int], step: int) -> dict[int, tuple]:
        batch = {
            "study_numbers": torch.tensor(studies),
            "label_targets": torch.ones(len(studies), 14),
            "rationale": [{"image_index": torch.arange(len(studies))}],
            "joined": [],
        }
        drawn = draw(batch, step)
        asked = dict(drawn["consistency"]["index"].tolist()) if "consistency" in drawn else {}
        removed = dict(drawn["counterfactual"].tolist()) if "counterfactual" in drawn else {}
        uniforms = drawn["on_policy"]["uniforms"].tolist()
        return {s: (asked.get(n), removed.get(n), tuple(uniforms[n])) for n, s in enumerate(studies)}

    whole = found(list(range(20)), 3)
    cut = found(list(range(10, 20)), 3) | found([5, 3, 1], 3)
    assert all(whole[study] == value for study, value in cut.items())
    assert whole != found(list(range(20)), 4)
    for part in (0, 1):
        share = sum(value[part] is not None for value in whole.values())
        assert 3 <= share <= 17, "about half of the studies"


def total(parts: Parts, cuts: list[list[int]], step: int = 0) -> dict[str, torch.Tensor]:
    """Each term over studies cut into micro-batches, as Trainer adds them up; gradients are in the parameters."""
    batches = [parts.batch(cut, step) for cut in cuts]
    counts = {t: sum(parts.objective.counts(batch)[t] for batch in batches) for t in parts.objective.weights}
    parts.model.zero_grad()
    sums: dict[str, torch.Tensor] = {}
    for batch in batches:
        losses = parts.objective.losses(parts.model, batch, counts)
        parts.objective.total(losses).backward()
        for term, value in losses.items():
            sums[term] = sums.get(term, torch.zeros(())) + value.detach()
    return sums


CUTS = {
    "8x1": [[n] for n in range(8)],
    "4x2": [[n, n + 1] for n in (0, 2, 4, 6)],
    "2x4": [[0, 1, 2, 3], [4, 5, 6, 7]],
    "1+7": [[0], list(range(1, 8))],
}


def check_cut_changes_nothing(parts: Parts, cuts: list[list[int]]) -> None:
    """Every term and every gradient are the same however the batch of studies 0..7 is cut."""
    whole = total(parts, [list(range(8))])
    expected = [p.grad.clone() for p in parts.model.parameters()]
    found = total(parts, cuts)
    assert set(whole) == set(found) == set(parts.objective.weights)
    for term, value in whole.items():  # 2e-6 seen, of 10
        assert math.isclose(float(value), float(found[term]), rel_tol=0, abs_tol=1e-5), (term, value, found[term])
    for parameter, gradient in zip(parts.model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=2e-5)  # 3e-6 seen


def check_own_text_reads_the_report(parts: Parts) -> None:
    """The teacher predicts a token from its prompt and the tokens before it: row by row, one text at a time."""
    teacher = parts.objective.teacher
    assert teacher is not None
    tokens = torch.tensor([[9, 8, 7, 2], [11, 2, -100, -100]])
    found = teacher.logits([0, 3], tokens)
    scorer = teacher._scorer
    expected = []
    for study, text in ((0, [9, 8, 7, 2]), (3, [11, 2])):
        prompt = list(scorer.encode_prompt(on_policy.privileged_prompt(teacher.reports[study])))
        for position in range(len(text)):
            ids = torch.tensor([prompt + text[:position]])
            with torch.no_grad():
                expected.append(teacher.model(input_ids=ids).logits[0, -1])
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-5)  # 2e-7 seen


def check_likelihood_of_statements(parts: Parts) -> None:
    """The implied probability is that of a plain loop over an observation's statements, one text at a time."""
    batch = parts.batch(step=1)
    drawn = batch["consistency"]
    values = batch["pixel_values"]
    output = parts.model(values, texts=[drawn["text"]])
    found = consistency.implied_logits(output.text_logits[0], drawn)
    assert parts.draw is not None
    for (image, observation), value in zip(drawn["index"].tolist(), found.tolist(), strict=True):
        scores = []
        for tokens in parts.draw.statements[observation]:
            ids = torch.tensor([tokens])
            logs = functional.log_softmax(parts.model(values[image : image + 1], input_ids=ids).lm_logits[0], -1)
            scores.append(math.fsum(logs[n, following].item() for n, (_, following) in enumerate(pairwise(tokens))))
        expected = math.log(math.fsum(map(math.exp, scores[1:]))) - scores[0]
        assert math.isclose(value, expected, rel_tol=0, abs_tol=1e-4), (observation, value, expected)


def alone(parts: Parts, term: str) -> Parts:
    """The same parts with one term, weight 1."""
    return replace(parts, objective=replace(parts.objective, weights={term: 1.0}))
