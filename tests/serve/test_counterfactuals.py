"""What if it were not there: over HTTP on a tiny phantom run, with a real student, and with one that reacts as told."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from kdistill.explain.student_reader import ReadingSettings, StudentReader
from kdistill.observations import INDEX, NUM_OBSERVATIONS
from kdistill.serve.removals import NO_PHANTOM, NOT_THE_SAME, Removals
from kdistill.serve.samples import Samples, enlarged
from kdistill.student.build import build_model
from kdistill.student.config import CnnVisionConfig, LlamaLanguageConfig, StudentConfig
from kdistill.studies import store
from kdistill.studies.phantom.plan import StudyPlan
from kdistill.studies.phantom.render import render_uint8
from kdistill.studies.phantom.world import plans_of_test_study, sample_plans
from kdistill.teacher.tokenizer import train_tokenizer

from .reacting import CONFIG, Reacting, done, explained, pixels, serving, until


@pytest.fixture
def client(reacting: Reacting, studies: Path) -> Iterator[TestClient]:
    with serving(reacting, studies) as found:
        yield found


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> StudentReader:
    """A real student of some thousand weights, untrained."""
    settings = StudentConfig(
        vision=CnnVisionConfig(stem_channels=8, middle_channels=8, channels=16, num_blocks=1, norm="channel"),
        language=LlamaLanguageConfig(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32),
        hidden_size=16,
        image_size_px=64,
        pooled_patch_grid=2,
    )
    tokenizer = train_tokenizer(["No pleural effusion. There is edema. The heart is large."] * 5, 300)
    model = build_model(settings, tokenizer, teacher_model_dir=None, seed=0).eval()
    asking = ReadingSettings(writes_rationale=True, max_new_tokens=8)
    return StudentReader("full, seed 0 (abc)", model, tokenizer, (0.5,) * NUM_OBSERVATIONS, asking)


def test_one_test_study_is_planned_without_the_others() -> None:
    more = CONFIG.model_copy(update={"num_train": 40, "num_test": 16})
    plans = sample_plans(more)["test"]
    assert {plan.shortcut for plan in plans} == {False, True}
    for index, plan in enumerate(plans):
        assert plan in plans_of_test_study(more, index)


def test_what_is_present_can_be_taken_away(client: TestClient, plans: list[StudyPlan]) -> None:
    counts = []
    for number, plan in enumerate(plans):
        answer = client.get(f"/v1/samples/{number}/counterfactuals").json()
        assert {item["name"] for item in answer["findings"]} == {finding.observation for finding in plan.findings}
        sides = {finding.observation: finding.side for finding in plan.findings}
        assert all(item["side"] == sides[item["name"]] for item in answer["findings"])
        assert bool(answer["findings"]) == (answer["reason"] is None)
        counts.append(len(answer["findings"]))
    assert min(counts) == 0 < max(counts)  # healthy ones and others are among them
    assert client.get("/v1/samples/6/counterfactuals").status_code == 404


def test_the_first_step_is_the_sample_and_the_last_what_the_generator_draws(
    student: StudentReader, studies: Path, plans: list[StudyPlan]
) -> None:
    observation = plans[0].findings[0].observation
    with serving(student, studies) as client:
        own = client.get(explained(client, "/v1/samples/0/explain")["result"]).json()
        found = done(client, f"/v1/samples/0/counterfactuals/{observation}?steps=3")
        first, middle, last = (client.get(step["result"]).json() for step in found["steps"])
        shown = [pixels(client, step) for step in found["steps"]]
    assert found["stage"] == "done" and [step["strength"] for step in found["steps"]] == [1.0, 0.5, 0.0]
    assert first == own  # to the last digit: read again in another batch, the sixth one would differ
    whole, without = render_uint8(plans[0], 64)[0], render_uint8(plans[0].without(observation), 64)[0]
    assert np.array_equal(shown[0], enlarged(whole)) and np.array_equal(shown[2], enlarged(without))
    assert last["image_sha256"] == hashlib.sha256(without.tobytes()).hexdigest()
    half = np.rint((whole.astype(float) + without) / 2).astype(np.uint8)
    assert np.array_equal(shown[1], enlarged(half)) and middle["image_sha256"] not in (own, last["image_sha256"])
    assert last["study_id"] == f"Sample 1 with {observation} at 0" and last != own


def test_what_happened_is_told_in_one_line(client: TestClient, reacting: Reacting) -> None:
    found = done(client, f"/v1/samples/0/counterfactuals/{reacting.observation}")
    assert len(found["steps"]) == 6 and found["kind"] == "removed" and "phantom generator" in found["made"]
    assert found["made"].endswith("Still there: the left pneumonia, the support devices.")
    told = found["summary"]
    assert f"took {reacting.observation} from 0.95 to 0.05 (threshold 0.50); its sentence is gone" in told
    assert "no other observation moved" in told and "\n" not in told
    values = [
        client.get(step["result"]).json()["observations"][INDEX[reacting.observation]]["probability"]
        for step in found["steps"]
    ]
    assert values == sorted(values, reverse=True)
    assert client.delete(f"/v1/counterfactuals/{found['id']}").status_code == 204
    assert client.get(found["steps"][1]["result"]).status_code == 404


def test_what_cannot_be_taken_away_is_refused_with_a_sentence(client: TestClient, plans: list[StudyPlan]) -> None:
    absent = next(name for name in ("Fracture", "Cardiomegaly", "Edema") if not plans[0].has(name))
    base = "/v1/samples/0/counterfactuals"
    for path, status, told in (
        (f"{base}/{absent}", 409, "not present in this sample"),
        (f"{base}/No Finding", 409, "cannot be taken away"),
        (f"{base}/Measles", 404, "no such observation"),
        ("/v1/samples/99/counterfactuals/Edema", 404, "no such sample"),
        (f"{base}/{absent}?steps=12", 422, "less than or equal to 11"),
    ):
        answer = client.post(path)
        assert answer.status_code == status and told in answer.text
    healthy = next(number for number, plan in enumerate(plans) if not plan.findings)
    assert "Nothing is present" in client.post(f"/v1/samples/{healthy}/counterfactuals/Edema").text


def test_a_full_queue_turns_a_whole_set_away(reacting: Reacting, studies: Path) -> None:
    path = f"/v1/samples/0/counterfactuals/{reacting.observation}"
    with serving(reacting, studies, max_waiting=6, batch_size=1) as client:
        assert client.post(f"{path}?steps=7").status_code == 409  # never room for so many
        reacting.go.clear()
        job = client.post("/v1/samples/1/explain").json()
        while client.get(f"/v1/jobs/{job['id']}").json()["stage"] != "reading":
            time.sleep(0.01)
        taken = client.post(f"{path}?steps=4")
        refused = client.post(f"{path}?steps=3")
        assert taken.status_code == 202 and taken.json()["stage"] == "waiting" and taken.json()["summary"] is None
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 0
        assert "kdistill_waiting 4.0" in client.get("/metrics").text  # none of the refused three is queued
        reacting.go.set()
        assert until(lambda: client.get(taken.headers["location"]).json())["stage"] == "done"


def test_another_session_sees_nothing(client: TestClient, reacting: Reacting) -> None:
    found = done(client, f"/v1/samples/0/counterfactuals/{reacting.observation}?steps=2")
    result = explained(client, "/v1/samples/0/explain")["result"]
    paths = [f"/v1/counterfactuals/{found['id']}", found["steps"][1]["image"], found["steps"][1]["result"]]
    assert [client.get(path).status_code for path in paths] == [200] * 3
    client.cookies.clear()
    assert [client.get(path).status_code for path in paths] == [404] * 3
    assert client.delete(paths[0]).status_code == 404
    assert client.post(f"{result}/counterfactuals/Edema").status_code == 404
    assert client.get("/v1/counterfactuals/none").status_code == 404


def test_where_the_generator_gives_another_image_the_published_pairs_are_taken(studies: Path, tmp_path: Path) -> None:
    other = tmp_path / "studies"
    shutil.copytree(studies, other)
    text = (other / "config.yaml").read_text()
    assert "seed: 16" in text
    (other / "config.yaml").write_text(text.replace("seed: 16", "seed: 17"))
    samples = Samples(other)
    removals, images = Removals(samples), store.load_pair_images(other)
    removed = [pair for pair in store.load_pairs(other) if pair.kind == "removed"]
    numbers = {samples.study(number).study_id: number for number in range(len(samples))}
    assert removed and images is not None
    for pair in removed:
        found = removals.without(numbers[pair.study_id], pair.observation)
        assert found is not None and found.finding.origin == "pair"
        assert np.array_equal(found.pixels, images[pair.after_row])
    alone = set(numbers) - {pair.study_id for pair in removed}
    assert all(removals.of(numbers[study_id]).reason == NOT_THE_SAME for study_id in alone) and alone
    (other / "config.yaml").write_text("studies: {kind: folder, path: x}\n")
    (other / store.STUDIES).write_text((other / store.STUDIES).read_text().replace('"phantom"', '"folder"'))
    assert Removals(Samples(other)).of(numbers[min(alone)]).reason == NO_PHANTOM


def test_all_paths_and_refusals_are_declared(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    remove = paths["/v1/samples/{number}/counterfactuals/{observation}"]["post"]["responses"]
    blur = paths["/v1/results/{job_id}/counterfactuals/{observation}"]["post"]["responses"]
    assert {"202", "401", "403", "404", "409", "422", "429"} <= set(remove) & set(blur)
    assert "get" in paths["/v1/samples/{number}/counterfactuals"]
    assert {"get", "delete"} <= set(paths["/v1/counterfactuals/{set_id}"])
