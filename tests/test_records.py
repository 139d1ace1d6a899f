from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kdistill.errors import InputError
from kdistill.records import Citation, Passage, RationaleEntry, Study, read_jsonl, write_jsonl


def study(**more):
    return Study(study_id="s", patient_id="p", split="train", images=(), **more)


def test_report_joins_what_there_is():
    assert study(findings="a", impression="b").report == "a\nb"
    assert study(impression="b").report == "b"
    assert study().report == ""


def test_unknown_keys_and_observations_are_refused():
    with pytest.raises(ValidationError):
        study(truth={})
    with pytest.raises(ValidationError, match="Hernia"):
        study(labels={"Hernia": 1})
    with pytest.raises(ValidationError):
        study(labels={"Edema": 2})


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=("Cs",))), max_size=5))
def test_jsonl_round_trip(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("r") / "x.jsonl"
    passages = [Passage(id=str(n), article_id="a", text=text) for n, text in enumerate(texts)]
    assert write_jsonl(path, passages) == len(passages)
    assert list(read_jsonl(path, Passage)) == passages


def test_a_bad_line_is_named(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"id": "1", "article_id": "a", "text": "t"}\n\n{"id": "2", "text": "t"}\n')
    with pytest.raises(InputError, match="x.jsonl line 3: article_id"):
        list(read_jsonl(path, Passage))
    with pytest.raises(InputError, match="cannot be read"):
        list(read_jsonl(tmp_path / "none.jsonl", Passage))


def test_an_entry_keeps_its_citations():
    entry = RationaleEntry(
        observation="Edema", state="present", text="t", citations=(Citation(article_id="a", quote="q"),)
    )
    assert RationaleEntry.model_validate_json(entry.model_dump_json()) == entry
