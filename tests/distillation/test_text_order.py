"""Report and rationale as one text: the same tokens, each counted to its own term, the second reading the first."""

from __future__ import annotations

import pytest
import torch

from kdistill.distillation.config import DistillationConfig
from kdistill.student.conclusions import Conclusions
from kdistill.student.config import StudentConfig, TextOrder
from kdistill.student.text import split_texts, token_ids
from kdistill.teacher.tokenizer import load_tokenizer

from .parts import Parts, make_parts
from .toy import ToyDirs

ORDERS: tuple[TextOrder, ...] = ("rationale_first", "report_first")


def ordered(
    world: ToyDirs, tiny: StudentConfig, short: DistillationConfig, order: TextOrder, arm: str = "full"
) -> Parts:
    return make_parts(world, tiny.model_copy(update={"text_order": order}), short, arm)


@pytest.mark.parametrize("order", ORDERS)
def test_the_same_tokens_are_counted_to_the_same_terms(
    world: ToyDirs, tiny: StudentConfig, short: DistillationConfig, order: TextOrder
) -> None:
    apart, joined = make_parts(world, tiny, short, "full"), ordered(world, tiny, short, order)
    before, after = apart.objective.counts(apart.batch()), joined.objective.counts(joined.batch())
    # The teacher ends a rationale; where a report follows, that last distribution is not the student's to match.
    ended = sum(text is not None for text in joined.targets.joined[:8]) if order == "rationale_first" else 0
    assert ended > 0 or order == "report_first"
    assert after == {**before, "token": before["token"] - ended}


@pytest.mark.parametrize("order", ORDERS)
def test_a_joined_text_cut_at_its_markers_gives_both_texts_back(
    world: ToyDirs, tiny: StudentConfig, short: DistillationConfig, order: TextOrder
) -> None:
    tokenizer = load_tokenizer(str(world.teacher / "model"))
    apart, joined = make_parts(world, tiny, short, "full").targets, ordered(world, tiny, short, order).targets
    start = "rationale" if order == "rationale_first" else "report"
    for number, text in enumerate(joined.joined):
        report, rationale = apart.reports[number], apart.rationales[number]
        if text is None:
            assert joined.reports[number] == report and joined.rationales[number] == rationale
            assert report is None or rationale is None
            continue
        assert joined.reports[number] is joined.rationales[number] is None
        assert report is not None and rationale is not None
        whole = split_texts(tokenizer, text.tokens[1:-1], start)
        assert whole[:2] == split_texts(tokenizer, report[1:-1], "report")[:2]
        assert whole.rationale == split_texts(tokenizer, rationale[1:-1], "rationale").rationale


@pytest.mark.parametrize("order", ORDERS)
def test_teacher_rows_stand_at_their_own_tokens(
    world: ToyDirs, tiny: StudentConfig, short: DistillationConfig, order: TextOrder
) -> None:
    """In the toy world the teacher's first kept token is the text's own: a shifted row would show another."""
    batches = ordered(world, tiny, short, order).batch()["joined"]
    assert batches
    for text in batches:
        targets = text["next_tokens"][text["next_tokens"] != -100]
        assert torch.equal(text["topk_ids"][:, 0], targets[text["is_taught"]])
        assert bool((text["is_rationale"] | ~text["is_taught"]).all())


@pytest.mark.parametrize("order", ORDERS)
def test_losses_are_those_of_its_tokens_one_by_one(
    world: ToyDirs, tiny: StudentConfig, short: DistillationConfig, order: TextOrder
) -> None:
    parts = ordered(world, tiny, short, order)
    batch = parts.batch()
    counts = parts.objective.counts(batch)
    losses = parts.objective.losses(parts.model.eval(), batch, counts)
    texts = [*batch["report"], *batch["rationale"], *batch["joined"]]
    stated = Conclusions.stated(batch["label_targets"], batch["side_targets"])
    output = parts.model(batch["pixel_values"], texts=texts, stated=stated)
    sums = {"report": 0.0, "rationale": 0.0}
    for logits, text in zip(output.text_logits, texts, strict=True):
        targets = text["next_tokens"][text["next_tokens"] != -100]
        alone = torch.full((len(targets),), any(text is other for other in batch["rationale"]))
        for row, target, rationale in zip(logits.detach(), targets, text.get("is_rationale", alone), strict=True):
            sums["rationale" if rationale else "report"] -= float(row.log_softmax(-1)[target])
    for term in ("report", "rationale"):
        assert float(losses[term].detach()) == pytest.approx(sums[term] / counts[term], rel=1e-4)
    sum(losses.values()).backward()  # a term without a gradient would raise


def test_an_arm_with_one_text_has_no_order(world: ToyDirs, tiny: StudentConfig, short: DistillationConfig) -> None:
    parts = ordered(world, tiny, short, "rationale_first", arm="label")
    assert parts.batch()["joined"] == [] and parts.model.config.text_order == "apart"


def test_generated_sections_are_found_in_any_order(world: ToyDirs) -> None:
    tokenizer = load_tokenizer(str(world.teacher / "model"))
    ids = token_ids(tokenizer)
    a, b, c = (list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in ("heart", "lung", "no"))
    words = [tokenizer.decode(tokens).strip() for tokens in (a, b, c)]
    tokens = [*a, ids["report"], *b, ids["impression"], *c, ids["report"]]
    assert split_texts(tokenizer, tokens, "rationale") == (words[1], words[2], words[0])
    tokens = [*a, ids["impression"], *b, ids["rationale"], *c]
    assert split_texts(tokenizer, tokens, "report") == (words[0], words[1], words[2])
