"""The terms that arms of their own add: consistency, counterfactual, and the token term on the student's own texts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdistill.distillation.assembly import refuse_unfounded, refuse_unfounded_terms
from kdistill.distillation.collate import Visit
from kdistill.distillation.config import ARMS, DistillationConfig, active_terms
from kdistill.distillation.consistency import consistency_loss, statement_sequences
from kdistill.distillation.counterfactual import top_mass
from kdistill.distillation.objective import Objective
from kdistill.errors import ConfigError
from kdistill.observations import INDEX
from kdistill.student.config import StudentConfig
from kdistill.student.sampling import sample_decode
from kdistill.teacher.tokenizer import load_tokenizer

from . import checks
from .checks import CUTS, alone
from .parts import EVERYTHING, Parts, make_parts
from .test_trainer import Killed, run
from .toy import ToyDirs

NEW = ("token", "consistency", "counterfactual")


@pytest.fixture
def parts(world: ToyDirs, tiny: StudentConfig, dense: DistillationConfig) -> Parts:
    return make_parts(world, tiny, dense, EVERYTHING)


def gradients(parts: Parts, term: str) -> set[str]:
    """Names of the parameters that a term alone moves."""
    one, batch = alone(parts, term), parts.batch()
    parts.model.zero_grad(set_to_none=True)
    one.objective.total(one.objective.losses(parts.model, batch, one.objective.counts(batch))).backward()
    return {name for name, p in parts.model.named_parameters() if p.grad is not None and bool((p.grad != 0).any())}


def test_own_texts_are_scored_behind_the_report(parts: Parts) -> None:
    checks.check_own_text_reads_the_report(parts)


def test_implied_probability_equals_a_loop(parts: Parts) -> None:
    checks.check_likelihood_of_statements(parts)


@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
def test_no_term_depends_on_the_cut(parts: Parts, cuts: list[list[int]]) -> None:
    checks.check_cut_changes_nothing(parts, cuts)


@pytest.mark.parametrize("term", NEW)
def test_each_alone_goes_down_on_an_overfit_batch(parts: Parts, term: str) -> None:
    objective, batch = alone(parts, term).objective, parts.batch()
    counts = objective.counts(batch)
    optimiser = torch.optim.AdamW(parts.model.parameters(), lr=1e-2)
    values = []
    for _ in range(15):
        loss = objective.total(objective.losses(parts.model, batch, counts))
        values.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert values[-1] < 0.5 * values[0]  # below 0.25 seen


def test_each_moves_what_it_may(parts: Parts) -> None:
    """Texts do not move the label head, nor removed evidence the decoder; each reaches the encoder."""
    for term in NEW:
        moved = gradients(parts, term)
        assert any(name.startswith("vision") for name in moved), term
        assert any(name.startswith("language") for name in moved) == (term != "counterfactual")
        assert ("queries.classifier" in moved) == (term == "counterfactual")


def test_all_together_move_every_parameter(parts: Parts) -> None:
    checks.total(parts, [list(range(8))])
    assert [name for name, p in parts.model.named_parameters() if not bool((p.grad != 0).any())] == []


def test_training_leaves_the_teacher_as_it_was(parts: Parts, dense: DistillationConfig, tmp_path: Path) -> None:
    assert parts.objective.teacher is not None
    teacher = parts.objective.teacher.model
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    history = run(parts, dense, tmp_path, steps=2)
    assert all(history[-1][f"{term}_loss"] > 0 for term in EVERYTHING.terms)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not teacher.training and all(p.grad is None and not p.requires_grad for p in teacher.parameters())


def test_bfloat16_trains_all_terms(parts: Parts, dense: DistillationConfig, tmp_path: Path) -> None:
    history = run(parts, dense.model_copy(update={"bf16": True}), tmp_path, steps=2)
    assert all(history[-1][f"{term}_loss"] > 0 for term in EVERYTHING.terms)


@pytest.mark.parametrize("micro_batch", [8, 4])
def test_resumed_run_equals_the_uninterrupted_one(
    world: ToyDirs, tiny: StudentConfig, dense: DistillationConfig, tmp_path: Path, micro_batch: int
) -> None:
    """With dropout, half of the steps on the student's own texts, half of the studies drawn: bit for bit."""
    config = dense.model_copy(
        update={
            "micro_batch": micro_batch,
            "on_policy": dense.on_policy.model_copy(update={"share": 0.5}),
            "consistency": dense.consistency.model_copy(update={"share": 0.5}),
            "counterfactual": dense.counterfactual.model_copy(update={"share": 0.5}),
        }
    )
    student = tiny.model_copy(update={"dropout": 0.1})

    def kill(done: int, total: int) -> None:
        if done == 5:
            raise Killed

    whole = make_parts(world, student, config, EVERYTHING)
    expected = run(whole, config, tmp_path / "whole")
    with pytest.raises(Killed):
        run(make_parts(world, student, config, EVERYTHING), config, tmp_path / "cut", on_progress=kill)
    resumed = make_parts(world, student, config, EVERYTHING)
    assert run(resumed, config, tmp_path / "cut") == expected
    weights = whole.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in resumed.model.state_dict().items())


def test_share_of_the_steps_is_on_policy(parts: Parts, dense: DistillationConfig) -> None:
    assert parts.draw is not None
    draw = replace(parts.draw, on_policy=dense.on_policy.model_copy(update={"share": 0.25}))
    batch = parts.collator([Visit(0), Visit(1)])
    number = sum("on_policy" in draw(batch, step) for step in range(400))
    assert 70 < number < 130  # 100 expected, standard deviation 9


def test_off_costs_nothing(world: ToyDirs, tiny: StudentConfig, short: DistillationConfig) -> None:
    """In `full` no teacher is loaded and nothing is drawn; a weight or share of zero takes a term out of its arm."""
    full = make_parts(world, tiny, short, "full")
    assert full.draw is None and full.objective.teacher is None and full.objective.counterfactual is None
    assert not {"on_policy", "consistency", "counterfactual"} & set(full.batch())
    none = short.weights.model_copy(update={"consistency": 0.0, "counterfactual": 0.0})
    for arm in ("full_consistency", "full_counterfactual"):
        assert active_terms(ARMS[arm], short.model_copy(update={"weights": none})).terms == ARMS["full"].terms
    never = short.model_copy(update={"on_policy": short.on_policy.model_copy(update={"share": 0.0})})
    assert active_terms(ARMS["full_on_policy"], never) == ARMS["full"]


def test_arms_add_one_thing_each() -> None:
    full = ARMS["full"]
    for term in ("consistency", "counterfactual"):
        assert ARMS[f"full_{term}"] == full.model_copy(update={"terms": (*full.terms, term)})
    assert ARMS["full_on_policy"] == full.model_copy(update={"on_policy": True})
    listed = {name for name, arm in ARMS.items() if {"consistency", "counterfactual"} & set(arm.terms) or arm.on_policy}
    assert listed == {"full_consistency", "full_counterfactual", "full_on_policy"}


def test_without_a_label_term_they_are_refused() -> None:
    blind = ARMS["full_consistency"].model_copy(update={"terms": ("report", "rationale", "consistency")})
    with pytest.raises(ConfigError, match="consistency reads the label head"):
        refuse_unfounded_terms("blind", blind)
    refuse_unfounded_terms("full_consistency", ARMS["full_consistency"])


def test_sampling_draws_tokens_at_their_probability(parts: Parts) -> None:
    """Evenly spaced uniforms meet each token as often as its probability says, whoever shares the batch."""
    model = parts.model
    with torch.no_grad():
        prefix = model.encode(parts.batch([0])["pixel_values"]).prefix
        start = torch.tensor([[3]])
        inputs = torch.cat([prefix, model.get_input_embeddings()(start)], dim=1)
        expected = torch.softmax(model.language(inputs_embeds=inputs).logits[0, -1].double() / 0.7, -1)
    number = 2000
    uniforms = ((torch.arange(number, dtype=torch.float64) + 0.5) / number).unsqueeze(1)
    state = torch.random.get_rng_state()
    texts = sample_decode(model.language, prefix.expand(number, -1, -1), 3, -1, uniforms, 0.7)
    found = torch.bincount(torch.tensor([text[0] for text in texts]), minlength=len(expected)) / number
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1.01 / number)  # one uniform at each edge
    assert torch.equal(torch.random.get_rng_state(), state) and model.language.training == model.training


def test_a_text_without_end_has_no_end_token(parts: Parts) -> None:
    batch = parts.batch()
    output = parts.model(batch["pixel_values"], texts=[], sampling=parts.objective._sampling(batch))
    eos, most = parts.model.config.token_ids["eos"], batch["on_policy"]["uniforms"].shape[1]
    for row in output.written["next_tokens"]:
        tokens = row[row != -100].tolist()
        assert eos not in tokens[:-1] and (tokens[-1] == eos or len(tokens) == most)
    assert len(output.text_logits[-1]) == int((output.written["next_tokens"] != -100).sum())


def test_statements_deny_and_affirm_by_side(world: ToyDirs) -> None:
    tokenizer = load_tokenizer(str(world.teacher / "model"))
    sequences = statement_sequences(tokenizer)
    texts = [[tokenizer.decode(tokens) for tokens in sequences[INDEX[name]]] for name in ("Pleural Effusion", "Edema")]
    begin = "<rationale>"
    assert texts[0] == [begin + t for t in ("No pleural effusion", "Pleural effusion", "Left pleural effusion",
                                            "Right pleural effusion", "Bilateral pleural effusion")]  # fmt: skip
    assert len(sequences[INDEX["No Finding"]]) == 0 and texts[1][0].startswith(begin + "No ")


def test_second_look_leaves_batch_statistics_alone(
    world: ToyDirs, tiny: StudentConfig, dense: DistillationConfig
) -> None:
    """With batch normalisation: neither running statistics nor the batch's own logits know of the changed images."""
    vision = tiny.vision.model_copy(update={"norm": "batch"})
    outputs = []
    for with_look in (True, False):
        parts = make_parts(world, tiny.model_copy(update={"vision": vision}), dense, EVERYTHING)
        batch = parts.batch()
        parts.model.train()
        look = parts.objective._second_look(batch) if with_look else None
        output = parts.model(batch["pixel_values"], second_look=look)
        assert parts.model.vision.training and parts.model.queries.training
        outputs.append((output.logits, dict(parts.model.named_buffers())))
    (logits, buffers), (expected, others) = outputs
    assert torch.equal(logits, expected)
    assert any("running_mean" in name for name in buffers)
    assert all(torch.equal(value, others[name]) for name, value in buffers.items())


@given(st.floats(-8, 8), st.floats(-8, 8))
@settings(max_examples=60, deadline=None)
def test_consistency_is_a_divergence(head: float, text: float) -> None:
    value = float(consistency_loss(torch.tensor(head), torch.tensor(text)))
    assert value >= -1e-6 and abs(float(consistency_loss(torch.tensor(head), torch.tensor(head)))) < 1e-6


@given(st.lists(st.floats(-6, 6), min_size=4, max_size=30), st.floats(0.05, 1), st.floats(0.05, 0.5))
@settings(max_examples=60, deadline=None)
def test_evidence_is_bounded_and_strongest_first(scores: list[float], mass: float, area: float) -> None:
    attention = torch.softmax(torch.tensor([scores]), -1)
    kept = top_mass(attention, mass, area)[0]
    number = int(kept.sum())
    assert 1 <= number <= max(1, int(area * len(scores)))
    assert float(attention[0][kept].min()) >= float(attention[0][~kept].max()) if number < len(scores) else True


def test_unused_settings_are_not_needed(parts: Parts) -> None:
    """An objective without the new terms reads none of what a batch has drawn."""
    plain = Objective({"report": 1.0}, parts.objective.divergence, 1.0, None, None)
    batch = parts.batch()
    assert set(plain.losses(parts.model, batch, plain.counts(batch))) == {"report"}


@pytest.mark.parametrize(
    ("arms", "changes"),
    [
        (("full", "full_no_semantic"), {}),  # the semantic term is off by default
        (("full", "full_no_token"), {}),  # and so is the token term
        (("full", "full_on_policy"), {"on_policy": {"share": 0}, "weights": {"token": 0.5}}),
        (("full", "full_displaced_where"), {"weights": {"where": 0}}),
        (("full", "full_no_impression"), {"weights": {"report": 0}}),
        (("report_only", "report_only_long"), {"full_compute_ratio": 1}),
    ],
)
def test_two_arms_of_one_training_are_refused(arms: tuple[str, str], changes: dict) -> None:
    """Their difference would be 0 with an interval of no width, and read as: the part is worth nothing."""
    with pytest.raises(ValueError, match=f"{arms[1]} learns what {arms[0]} does .* or give a weight .* semantic"):
        DistillationConfig.model_validate({"arms": arms, **changes})
    DistillationConfig.model_validate({"arms": arms, "weights": {"semantic": 0.5, "token": 0.5}})


@pytest.mark.parametrize(
    ("arm", "order", "refused"),
    [
        ("full_on_policy", "rationale_first", True),
        ("full_on_policy", "report_first", True),
        ("full_on_policy", "apart", False),
        ("full_consistency", "report_first", True),
        ("full_consistency", "rationale_first", False),
        ("full", "report_first", False),
    ],
)
def test_terms_on_rationales_that_stand_alone_need_such_rationales(arm: str, order: str, refused: bool) -> None:
    student = StudentConfig.model_validate({"text_order": order})
    if not refused:
        return refuse_unfounded(arm, ARMS[arm], student)
    with pytest.raises(ConfigError, match="text_order"):
        refuse_unfounded(arm, ARMS[arm], student)
    return None
