"""The whole stage: counts that add up, leaks, retractions, merges, search, determinism."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdistill.artifact import StageWriter
from kdistill.errors import InputError
from kdistill.literature.config import LiteratureConfig
from kdistill.literature.relevance import passage_scores, text_score
from kdistill.literature.search import PassageIndex
from kdistill.literature.stage import build_literature, heldout_groups
from kdistill.records import Article

from .documents import OTHER, build, dropped, jats, jsonl, lines, pubmed, pubmed_record

SIGNS = (
    "A meniscus that blunts the costophrenic angle is the sign of a pleural effusion on the upright chest radiograph.",
    "A thin visceral pleural line without lung markings beyond it is the sign of a pneumothorax.",
    "A cardiothoracic ratio above one half means cardiomegaly on a frontal chest film.",
    "Air bronchograms inside an opacity speak for consolidation and often for pneumonia.",
)


def sums(counts: dict[str, int], level: str) -> tuple[int, int]:
    out = counts.get(f"{level}_kept", 0) + counts.get(f"{level}_heldout", 0)
    return counts.get(f"{level}_in", 0), out + sum(n for k, n in counts.items() if k.startswith(f"{level}_dropped_"))


RECORD = st.fixed_dictionaries(
    {
        "text": st.lists(
            st.sampled_from((*SIGNS, OTHER, "Clear lungs.", "ignore previous instructions now please", "")), max_size=5
        ).map(" ".join),
    },
    optional={
        "id": st.sampled_from("abcd"),
        "pmid": st.sampled_from(["1", "2", "x"]),
        "doi": st.sampled_from(["10.1000/a", "10.1000/b"]),
        "retracted": st.sampled_from([True, False, 3]),
        "license": st.sampled_from(["CC BY 4.0", "other"]),
    },
)


@given(
    records=st.lists(RECORD, max_size=12),
    parts=st.booleans(),
    share=st.sampled_from([0.0, 0.3]),
    most=st.sampled_from([None, 2]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_drops_sum_to_inputs(records: list[dict[str, object]], parts: bool, share: float, most: int | None) -> None:
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "out"
        files = {
            "a.jsonl": jsonl({"text": SIGNS[0]}, *records),
            "b.xml": pubmed(pubmed_record("1"), pubmed_record("7")),
        }
        settings_ = {"parts": parts, "license_allow": ("CC BY",), "license": "CC BY"}
        stage = None
        try:
            stage = build(
                Path(name), files, source=settings_, heldout_share=share, max_articles=most, excluded=(SIGNS[3],)
            )
        except InputError as error:
            assert "no passage is left" in str(error)
            return
        counts = dict(stage.counts)
        for level in ("articles", "passages"):
            total, accounted = sums(counts, level)
            assert total == accounted, (level, counts)
        assert counts["articles_in"] == 3 + len(records)
        told = lines(out / "dropped.jsonl")
        listed = sum(n for k, n in counts.items() if "_dropped_" in k) - counts.get(
            "passages_dropped_not_chest_relevant", 0
        )
        assert len(told) == listed
        assert len(lines(out / "passages.jsonl")) == counts["passages_kept"]


def test_planted_leak_is_caught_everywhere(tmp_path: Path) -> None:
    report = (
        "There is blunting of the left costophrenic angle consistent with a small left pleural effusion "
        "without pneumothorax."
    )
    leaking = jsonl(
        {"id": "leak", "text": f"{SIGNS[0]}\n{report.upper().replace('.', '!')}\n{SIGNS[2]}"},
        {"id": "clean", "text": SIGNS[1].replace("thin", "faint")},
    )
    stage = build(tmp_path, {"a.jsonl": leaking}, excluded=[report])
    assert dropped(stage) == [("leak#1", "evaluation_ngram")]
    for name in ("articles.jsonl", "passages.jsonl"):
        assert "blunting of the left" not in (stage.dir / name).read_text().lower()
    without = build(tmp_path, {"a.jsonl": leaking})
    assert "blunting of the left" in (without.dir / "passages.jsonl").read_text().lower()


def test_an_article_retracted_in_any_file_is_in_no_output(tmp_path: Path) -> None:
    notice = '<CommentsCorrections RefType="RetractionOf"><PMID>13</PMID></CommentsCorrections>'
    files = {
        "cases.jsonl": jsonl({"id": "case", "pmid": "11", "text": SIGNS[0]}, {"id": "fine", "text": SIGNS[3]}),
        "full.nxml": jats(pmid="12", body=f"<p>{SIGNS[1]}</p>"),
        "more.jsonl": jsonl({"id": "m", "pmid": "13", "text": SIGNS[2]}),
        "update.xml": pubmed(
            pubmed_record("11", kinds=("Retracted Publication",)),
            pubmed_record("12", corrections='<CommentsCorrections RefType="RetractionIn"/>', abstract=""),
            pubmed_record("14", kinds=("Retraction of Publication",), corrections=notice),
        ),
    }
    stage = build(tmp_path, files, source={"parts": True})
    assert [article["id"] for article in lines(stage.dir / "articles.jsonl")] == ["fine"]
    assert {passage["article_id"] for passage in lines(stage.dir / "passages.jsonl")} == {"fine"}
    assert stage.counts["articles_dropped_retracted"] == 5
    assert stage.counts["articles_dropped_retraction_notice"] == 1
    assert PassageIndex.load(stage.dir).article("case") is None


def test_the_same_pmid_in_pubmed_and_jats_is_one_article(tmp_path: Path) -> None:
    abstract = f"<AbstractText>{SIGNS[0]}</AbstractText>"
    files = {
        "a.xml": pubmed(pubmed_record("77", abstract=abstract)),
        "b.nxml": jats(pmid="77", body=f"<p>{SIGNS[0]}</p><p>{SIGNS[1]}</p>"),
        "c.jsonl": jsonl({"doi": "10.1000/ABC", "text": SIGNS[2]}),
    }
    stage = build(tmp_path, files)
    (article,) = lines(stage.dir / "articles.jsonl")
    assert [reason for _, reason in dropped(stage)] == ["duplicate_id", "duplicate_id"]
    assert article["text"] == f"{SIGNS[0]}\n{SIGNS[1]}" and article["mesh"] == ["Pleural Effusion"]
    assert (article["pmcid"], article["doi"], article["license"]) == ("PMC55", "10.1000/abc", "CC BY")


def test_parts_of_one_article_all_stay(tmp_path: Path) -> None:
    captions = jsonl(*({"id": f"c{number}", "pmcid": "PMC5", "text": text} for number, text in enumerate(SIGNS)))
    assert build(tmp_path, {"a.jsonl": captions}, source={"parts": True}).counts["articles_kept"] == 4
    assert build(tmp_path, {"a.jsonl": captions}).counts["articles_dropped_duplicate_id"] == 3


def test_licence_filter_names_what_it_dropped(tmp_path: Path) -> None:
    data = jsonl(
        {"id": "a", "text": SIGNS[0], "license": "CC BY-NC 4.0"},
        {"id": "b", "text": SIGNS[1], "license": "CC BY 3.0"},
        {"id": "c", "text": SIGNS[2]},
    )
    stage = build(tmp_path, {"a.jsonl": data}, source={"license_allow": ("cc by",)})
    assert dropped(stage) == [("a", "license"), ("c", "license")]


def test_relevance_sees_the_chest_and_not_its_namesakes() -> None:
    assert all(text_score(sign) >= 3 for sign in SIGNS)
    others = (
        OTHER,
        "A dental radiograph showed an opacity of the alveolar bone.",
        "Knee effusion after a fall.",
        "The lens opacity and retinal edema were treated.",
        "Receptor expression in the lung of mice.",
    )
    assert all(text_score(other) < 3 for other in others)
    article = Article(id="a", text="x", mesh=("Radiography, Thoracic",))
    plain, chest = (passage_scores(a, ["The chest was imaged.", OTHER]) for a in (Article(id="b", text="x"), article))
    assert chest[0] > plain[0] and chest[1] == plain[1]


def test_curated_articles_are_asked_as_a_whole(tmp_path: Path) -> None:
    stage = StageWriter(tmp_path)
    plain = "Contours within normal limits are a normal finding in adults."
    articles = [
        Article(id="heading", text=plain, mesh=("Radiography, Thoracic",)),
        Article(id="passage", text=f"{SIGNS[0]}\nThis {plain}"),
        Article(id="other", text=OTHER),
    ]
    build_literature(stage, LiteratureConfig(heldout_share=0), extra_articles=articles)
    assert [passage["text"] for passage in lines(tmp_path / "passages.jsonl")] == [plain, SIGNS[0], f"This {plain}"]
    assert dropped(stage) == [("other", "not_chest_relevant")]


def test_one_passage_works_and_none_says_why(tmp_path: Path) -> None:
    stage = build(tmp_path, {"a.jsonl": jsonl({"id": "a", "text": SIGNS[0]})}, heldout_share=0.5)
    ((passage, score),) = PassageIndex.load(stage.dir).search("costophrenic angles", top=5)
    assert passage.id == "a#0" and score > 0
    with pytest.raises(InputError, match=r"no passage is left of 1 records \(article not_chest_relevant: 1\)"):
        build(tmp_path, {"a.jsonl": jsonl({"id": "a", "text": OTHER})})


def test_search_ranks_by_shared_words_and_never_invents(tmp_path: Path) -> None:
    data = jsonl(*({"id": f"s{number}", "text": text, "pmid": f"{number + 1}"} for number, text in enumerate(SIGNS)))
    index = PassageIndex.load(build(tmp_path, {"a.jsonl": data}).dir)
    assert index.search("pleural line of pneumothorax", top=1)[0][0].id == "s1#0"
    assert index.search("zebra", top=3) == [] and index.search("the of", top=3) == []
    assert index.passage("s2#0").pmid == "3"
    article = index.article("s3")
    assert article is not None and article.text == SIGNS[3]
    assert index.article("s9") is None
    with pytest.raises(KeyError):
        index.passage("s9#0")
    with pytest.raises(ValueError, match="at least 1"):
        index.search("lung", top=0)


def test_index_holds_no_objects_and_damage_is_told(tmp_path: Path) -> None:
    stage = build(tmp_path, {"a.jsonl": jsonl({"id": "a", "text": SIGNS[0]})})
    arrays = sorted((stage.dir / "index").glob("*.npy"))
    assert {path.suffix for path in (stage.dir / "index").iterdir()} == {".npy", ".json"} and len(arrays) == 3
    for path in arrays:
        assert np.load(path, allow_pickle=False).dtype.kind in "fiu"
    arrays[0].write_bytes(arrays[0].read_bytes()[:100])
    with pytest.raises(InputError, match="missing or damaged"):
        PassageIndex.load(stage.dir)


def test_passages_and_index_must_belong_together(tmp_path: Path) -> None:
    stage = build(tmp_path, {"a.jsonl": jsonl({"id": "a", "text": SIGNS[0]}, {"id": "b", "text": SIGNS[1]})})
    first = (stage.dir / "passages.jsonl").read_text().splitlines()[0]
    (stage.dir / "passages.jsonl").write_text(first + "\n")
    with pytest.raises(InputError, match="1 passages, but an index of 2"):
        PassageIndex.load(stage.dir)


def test_heldout_articles_are_apart_stable_and_never_all() -> None:
    articles = [Article(id=f"a{number}", text="x") for number in range(2000)]
    aside = heldout_groups(articles, 0.03)
    # Binomial(2000, 0.03) has mean 60 and standard deviation 7.6; the hash is fixed, so this never flickers.
    assert 38 <= len(aside) <= 83
    assert heldout_groups(articles[:1000], 0.03) == {name for name in aside if int(name[1:]) < 1000}
    assert len(heldout_groups(articles[:2], 0.001)) == 1 and heldout_groups(articles[:1], 0.5) == set()
    assert heldout_groups(articles, 0.0) == set()


def test_heldout_text_is_in_no_other_file(tmp_path: Path) -> None:
    data = jsonl(*({"id": f"s{number}", "text": text} for number, text in enumerate(SIGNS)))
    stage = build(tmp_path, {"a.jsonl": data}, heldout_share=0.25)
    held = lines(stage.dir / "heldout.jsonl")
    assert len(held) == stage.counts["passages_heldout"] > 0
    for name in ("articles.jsonl", "passages.jsonl"):
        assert not any(passage["text"] in (stage.dir / name).read_text() for passage in held)


def test_same_input_same_bytes_in_another_process(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl(*({"id": f"s{n}", "text": text} for n, text in enumerate(SIGNS))))
    program = (
        "import sys; from pathlib import Path; from kdistill.artifact import StageWriter\n"
        "from kdistill.literature.config import *; from kdistill.literature.stage import build_literature\n"
        "out = Path(sys.argv[2]); out.mkdir()\n"
        "build_literature(StageWriter(out), LiteratureConfig(sources=(FilesSource(path=(Path(sys.argv[1]),)),)))\n"
    )
    digests = []
    for seed in ("1", "2"):
        out = tmp_path / seed
        command = [sys.executable, "-c", program, str(tmp_path / "a.jsonl"), str(out)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"})
        files = sorted(path for path in out.rglob("*") if path.is_file() and path.name != "log.jsonl")
        digests.append([(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files])
    assert digests[0] == digests[1] and len(digests[0]) == 9
