"""What the teacher's terms cost: a training step of `full` against the same step without token, semantic and where.

    python benchmarks/step_speed.py [--rounds 8] [--steps 1] [--profile] [--coarse-and-fine] [--json FILE]
    python benchmarks/step_speed.py --table benchmarks/step_speed.json

Both read the same images, reports and rationales (cross-entropy on both texts, labels and sides stay); only the terms
that need the teacher's arrays differ. Steps alternate A B A B in one process, so that what else the machine does meets
both; figures are medians over rounds. On a CPU the clock is the process's own time, which other programs hardly slow
(run with OMP_NUM_THREADS=1); on a GPU it is the wall's. The data are phantom studies made here; the teacher's
distributions and embeddings are random numbers of the right shape: what they say changes no time. A step is what
Trainer does in one: collate, forward under the configured autocast, backward, clipping, AdamW. `--profile` prints where
the time goes. `--coarse-and-fine` races two students of `full` instead: with two grids of patches and with one.
`--json` adds the race, with date, commit and hardware, to a file; docs/objective.md shows benchmarks/step_speed.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedTokenizerBase

from kdistill.artifact import current_commit
from kdistill.distillation.arithmetic import trains_in_bf16
from kdistill.distillation.assembly import build_objective, num_patches
from kdistill.distillation.collate import Collator, Visit, VisitOrder
from kdistill.distillation.config import ARMS, DistillationConfig, Term, TermWeights
from kdistill.distillation.objective import Objective
from kdistill.distillation.regions import RegionMasks, RegionTable, region_of
from kdistill.distillation.targets import SIDE_CODES, TrainingTargets
from kdistill.distillation.teacher_targets import TeacherTargets
from kdistill.distillation.validation import move
from kdistill.observations import INDEX, NUM_OBSERVATIONS
from kdistill.records import RationaleEntry, Side, Study
from kdistill.student.build import build_model
from kdistill.student.config import (
    CoarseAndFinePatches,
    LlamaLanguageConfig,
    PatchesConfig,
    SinglePatches,
    StudentConfig,
)
from kdistill.student.modeling import KDistillStudent
from kdistill.student.text import rationale_sequence, report_sequence
from kdistill.studies.phantom.literature import write_literature
from kdistill.studies.phantom.plan import StudyPlan
from kdistill.studies.phantom.render import render_many
from kdistill.studies.phantom.stage import sides_of, study_of, to_bytes
from kdistill.studies.phantom.world import sample_plans
from kdistill.studies.phantom.write import config_for
from kdistill.teacher.config import FromScratchTeacher
from kdistill.teacher.statements import Fact, canonical
from kdistill.teacher.targets import StatementBank
from kdistill.teacher.template import template_entry
from kdistill.teacher.tokenizer import train_tokenizer
from kdistill.teacher.writers import Request, in_order, joined_text

#: The goal: the teacher's terms add at most this share to a step.
MOST_RATIO: Final = 1.15
TEACHER_TERMS: Final[frozenset[Term]] = frozenset({"token", "semantic", "where"})
TOP_K: Final = 16


class Sizes(NamedTuple):
    """What decides the speed of a step."""

    num_studies: int = 64
    batch_size: int = 16
    size_px: int = 128
    num_articles: int = 400


@dataclass
class Contestant:
    """A model of its own, its terms and its optimiser."""

    name: str
    model: KDistillStudent
    objective: Objective
    collator: Collator
    optimiser: torch.optim.Optimizer
    bf16: bool

    def step(self, visits: Sequence[Visit]) -> int:
        """One training step; returns the target tokens in it."""
        batch = move(self.collator(visits), self.model.device)
        counts = self.objective.counts(batch)
        with torch.autocast(self.model.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            losses = self.objective.losses(self.model, batch, counts)
        self.objective.total(losses).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()
        return counts["report"] + counts["rationale"]


def entries_of(plan: StudyPlan) -> tuple[RationaleEntry, ...]:
    """What a teacher would state: present observations with two sentences each, and three denials."""
    sides = sides_of(plan)
    found = {finding.observation: finding for finding in plan.findings}
    facts = [Fact(name, "present", sides.get(name), f.zone, f.severity) for name, f in found.items()]
    absent = [name for name in ("Pleural Effusion", "Pneumothorax", "Cardiomegaly") if name not in found]
    facts += [Fact(name, "absent") for name in absent]
    return in_order([template_entry(Request(canonical(fact))) for fact in facts])


def make_targets(
    plans: Sequence[StudyPlan], studies: Sequence[Study], tokenizer: PreTrainedTokenizerBase, config: DistillationConfig
) -> TrainingTargets:
    """The arrays that the stages would publish for these studies."""
    entries = [entries_of(plan) for plan in plans]
    most = config.max_text_tokens
    rationales = [rationale_sequence(tokenizer, joined_text(own), most)[0] for own in entries]
    reports = [report_sequence(tokenizer, study.findings, study.impression, most)[0] for study in studies]
    offsets = np.cumsum([0, *(len(tokens) - 1 for tokens in rationales)])
    table = RegionTable(region_of(entry) for own in entries for entry in own)
    bank = StatementBank()
    labels = np.zeros((len(plans), NUM_OBSERVATIONS), dtype=np.float32)
    sides, regions, statements = (np.full(labels.shape, -1, dtype=np.int64) for _ in range(3))
    for row, (plan, own) in enumerate(zip(plans, entries, strict=True)):
        _fill_sides(sides[row], sides_of(plan))
        for entry in own:
            column = INDEX[entry.observation]
            labels[row, column] = entry.state == "present"
            regions[row, column] = table.row(region_of(entry))
            fact = Fact(entry.observation, entry.state, entry.side, entry.zone, entry.severity)
            statements[row, column] = bank.row[canonical(fact)]
    return TrainingTargets(
        studies=tuple(studies),
        image_rows=np.arange(len(plans)),
        labels=labels,
        blanks=np.zeros(labels.shape, dtype=bool),
        sides=sides,
        reports=tuple(reports),
        rationales=tuple(rationales),
        spans=tuple(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)),
        regions=regions,
        region_table=table,
        statements=statements,
        joined=(None,) * len(plans),
        teacher=_teacher_arrays(offsets, len(tokenizer), len(bank.facts)),
    )


def _fill_sides(row: np.ndarray, sides: dict[str, Side]) -> None:
    for observation, side in sides.items():
        row[INDEX[observation]] = SIDE_CODES[side]


def _teacher_arrays(offsets: np.ndarray, vocabulary: int, num_statements: int) -> TeacherTargets:
    random = np.random.default_rng(0)
    number = int(offsets[-1])
    scores = random.normal(size=(number, TOP_K + 1))
    bank = random.normal(size=(num_statements, FromScratchTeacher().hidden_size)).astype(np.float32)
    return TeacherTargets(
        token_offsets=offsets,
        token_ids=np.zeros(number, dtype=np.int32),
        topk_ids=random.integers(vocabulary, size=(number, TOP_K)).astype(np.int32),
        topk_log_probs=(scores - np.log(np.exp(scores).sum(1, keepdims=True))).astype(np.float16),
        bank=bank / np.linalg.norm(bank, axis=1, keepdims=True),
        entry_statement=np.zeros((0, NUM_OBSERVATIONS), dtype=np.int32),
    )


def contestants(sizes: Sizes, *, two_grids: bool = False) -> tuple[Contestant, Contestant, VisitOrder]:
    """`full` and the same without the teacher's terms (or with one grid of patches): equal batches."""
    world = config_for(sizes.num_studies * 10 // 7 + 1, size_px=sizes.size_px)
    plans = sample_plans(world)["train"][: sizes.num_studies]
    images = np.stack([to_bytes(drawn.image) for drawn in render_many(plans, sizes.size_px)])
    studies = [study_of(plan, "train", row, f"{row}.png") for row, plan in enumerate(plans)]
    texts = [text for p, s in zip(plans, studies, strict=True) for text in (s.report, joined_text(entries_of(p)))]
    texts += [article.text for article in write_literature(0, sizes.num_articles)]
    teacher = FromScratchTeacher()
    tokenizer = train_tokenizer(texts, teacher.vocab_size)
    weights = TermWeights(semantic=0.5, token=0.5)  # off by default; what they cost is measured all the same
    config = DistillationConfig(batch_size=sizes.batch_size, micro_batch=sizes.batch_size, weights=weights)
    targets = make_targets(plans, studies, tokenizer, config)
    full, one, two = ARMS["full"].terms, SinglePatches(), CoarseAndFinePatches(kind="coarse_and_fine")
    without = tuple(term for term in full if term not in TEACHER_TERMS)
    pair = [
        _contestant(name, terms, patches, targets, images, tokenizer, config, sizes, teacher)
        for name, terms, patches in (
            (("coarse and fine", full, two), ("single", full, one))
            if two_grids
            else (("full", full, one), ("without the teacher's terms", without, one))
        )
    ]
    return pair[0], pair[1], VisitOrder(len(plans), 10**6, seed=0)


def _contestant(
    name: str,
    terms: tuple[Term, ...],
    patches: PatchesConfig,
    targets: TrainingTargets,
    images: np.ndarray,
    tokenizer: PreTrainedTokenizerBase,
    config: DistillationConfig,
    sizes: Sizes,
    teacher: FromScratchTeacher,
) -> Contestant:
    """The student has a decoder of the teacher's shape, as in recipes/demo.yaml."""
    if not TEACHER_TERMS & set(terms):
        nothing = np.full_like(targets.regions, -1)
        spans = (None,) * len(targets.spans)
        changes = {"teacher": None, "spans": spans, "regions": nothing, "statements": nothing}
        targets = TrainingTargets(**{**vars(targets), **changes})
    language = LlamaLanguageConfig(
        hidden_size=teacher.hidden_size,
        num_layers=teacher.num_layers,
        num_heads=teacher.num_heads,
        intermediate_size=teacher.intermediate_size,
    )
    model = build_model(
        StudentConfig(language=language, image_size_px=sizes.size_px, patches=patches),
        tokenizer,
        teacher_model_dir=None,
        seed=0,
        teacher_hidden_size=teacher.hidden_size if "semantic" in terms else 0,
    )
    model.to("cuda" if torch.cuda.is_available() else "cpu").train()
    model.pack_texts()
    objective = build_objective(ARMS["full"].model_copy(update={"terms": terms}), config, targets)
    masks = RegionMasks(targets.region_table, num_patches(model)) if "where" in terms else None
    collator = Collator(images, targets, model.config, config.texts_per_chunk, region_masks=masks)
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate)
    return Contestant(name, model, objective, collator, optimiser, trains_in_bf16(config.bf16))


class Timing(NamedTuple):
    """One contestant's rounds: seconds a step, images and target tokens a second."""

    seconds: list[float]
    images_per_s: list[float]
    tokens_per_s: list[float]


def race(
    first: Contestant, second: Contestant, order: VisitOrder, *, rounds: int, steps: int, size: int
) -> dict[str, Timing]:
    """A B A B: each round gives both the same batches; one round before is not counted."""
    visits = iter(order)
    timings = {c.name: Timing([], [], []) for c in (first, second)}
    for number in range(rounds + 1):
        batches = [[next(visits) for _ in range(size)] for _ in range(steps)]
        for contestant in (first, second):
            clock = time.process_time if contestant.model.device.type == "cpu" else time.perf_counter
            start = clock()
            tokens = sum(contestant.step(batch) for batch in batches)
            seconds = clock() - start
            if number:
                timing = timings[contestant.name]
                timing.seconds.append(seconds / steps)
                timing.images_per_s.append(steps * size / seconds)
                timing.tokens_per_s.append(tokens / seconds)
    return timings


def result(timings: dict[str, Timing]) -> dict[str, Any]:
    """Medians, the ratio of the first to the second, and the spread of the rounds' own ratios."""
    steps = [
        dict(zip(("name", "ms", "images_per_s", "tokens_per_s"), (name, 1000 * seconds, images, tokens), strict=True))
        for name, (seconds, images, tokens) in (
            (name, map(statistics.median, timing)) for name, timing in timings.items()
        )
    ]
    first, second = timings.values()
    ratios = sorted(a / b for a, b in zip(first.seconds, second.seconds, strict=True))
    return {
        "steps": steps,
        "ratio": steps[0]["ms"] / steps[1]["ms"],
        "ratio_range": [ratios[0], ratios[-1]],
        "rounds": len(ratios),
    }


def table(found: Mapping[str, Any]) -> Iterator[str]:
    """A race as Markdown."""
    yield "| step | ms | images/s | tokens/s |"
    yield "|---|---|---|---|"
    for row in found["steps"]:
        yield f"| {row['name']} | {row['ms']:.0f} | {row['images_per_s']:.1f} | {row['tokens_per_s']:.0f} |"
    low, high = found["ratio_range"]
    yield f"ratio {found['ratio']:.3f} (rounds {low:.3f} to {high:.3f}, n = {found['rounds']})"


def keep(found: Mapping[str, Any], path: Path, hardware: str) -> None:
    """Add a race to a file; one of the same pair of steps is replaced."""
    races = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    names = [row["name"] for row in found["steps"]]
    races = [race for race in races if [row["name"] for row in race["steps"]] != names]
    told = {"date": datetime.now(UTC).date().isoformat(), "commit": current_commit(), "hardware": hardware}
    path.write_text(json.dumps([*races, {**told, **found}], indent=1) + "\n", encoding="utf-8")


def show_profile(contestant: Contestant, order: VisitOrder, steps: int, batch_size: int) -> None:
    """Where a contestant's steps spend their time, by operator."""
    visits = iter(order)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(steps):
            contestant.step([next(visits) for _ in range(batch_size)])
    print(contestant.name)
    print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=15))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1, help="steps of each in a round")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--coarse-and-fine", action="store_true", help="two grids of patches against one")
    parser.add_argument("--json", type=Path, help="add the race to this file")
    parser.add_argument("--table", type=Path, help="print the races of this file; measure nothing")
    arguments = parser.parse_args()
    if arguments.table:
        for race_kept in json.loads(arguments.table.read_text(encoding="utf-8")):
            print(race_kept["hardware"], *table(race_kept), sep="\n")
        return
    sizes = Sizes()
    first, second, order = contestants(sizes, two_grids=arguments.coarse_and_fine)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU x {torch.get_num_threads()}"
    vocabulary = first.model.language.config.vocab_size
    hardware = f"{device}; batch {sizes.batch_size}, {sizes.size_px} px, vocabulary {vocabulary}"
    found = result(race(first, second, order, rounds=arguments.rounds, steps=arguments.steps, size=sizes.batch_size))
    print(hardware, *table(found), sep="\n")
    if arguments.json:
        keep(found, arguments.json, hardware)
    if not arguments.coarse_and_fine:
        print(f"goal of the ratio: at most {MOST_RATIO}")
    if arguments.profile:
        for contestant in (first, second):
            show_profile(contestant, order, arguments.steps, sizes.batch_size)


if __name__ == "__main__":
    main()
