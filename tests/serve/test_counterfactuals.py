"""What if it were not there: over HTTP on a tiny phantom run, with a real student, and with one that reacts as told."""

from __future__ import annotations

import hashlib
import io
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from kdistill.artifact import open_stage
from kdistill.explain.batch import image_of
from kdistill.explain.build import ExplanationContext, explain
from kdistill.explain.config import ExplainConfig
from kdistill.explain.explanation import Explanation
from kdistill.explain.reading import ImageReader, Reading
from kdistill.explain.student_reader import ReadingSettings, StudentReader
from kdistill.labelers.rules import RuleLabeler
from kdistill.observations import INDEX, NUM_OBSERVATIONS
from kdistill.serve.app import create_app
from kdistill.serve.config import ServeConfig
from kdistill.serve.counterfactual_sets import occluded_steps
from kdistill.serve.counterfactual_words import Change, summary
from kdistill.serve.jobs import Jobs
from kdistill.serve.occlusion import occlude
from kdistill.serve.removals import NO_PHANTOM, NOT_THE_SAME, Removals
from kdistill.serve.samples import Samples, enlarged
from kdistill.serve.sockets import server_of
from kdistill.student.build import build_model
from kdistill.student.config import CnnVisionConfig, LlamaLanguageConfig, StudentConfig
from kdistill.studies import store
from kdistill.studies.config import PhantomStudies
from kdistill.studies.decoding import DecoderPool
from kdistill.studies.phantom.plan import StudyPlan
from kdistill.studies.phantom.render import render_uint8
from kdistill.studies.phantom.world import plans_of_test_study, sample_plans
from kdistill.studies.stage import build_studies
from kdistill.teacher.tokenizer import train_tokenizer

from ..explain.conftest import make_library, make_reading, radiograph

#: Sample 0 has a left consolidation, a pneumonia and a device, sample 2 nothing; two findings stand in removed pairs.
CONFIG = PhantomStudies(seed=16, size_px=64, num_train=2, num_validate=0, num_test=6, num_pairs=8)
PATCHES = ((5, 2), (5, 3))
Asked = dict


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "studies"
    with open_stage(folder, stage="studies", config={"studies": CONFIG.model_dump(mode="json"), "files": {}}) as stage:
        build_studies(stage, CONFIG)
    return folder


@pytest.fixture(scope="module")
def plans() -> list[StudyPlan]:
    return sample_plans(CONFIG)["test"]


class Reacting:
    """Sees one finding as strongly as an image still differs from the image without it, and says so."""

    name, size_px, thresholds = "full, seed 0 (abc)", 64, (0.5,) * NUM_OBSERVATIONS

    def __init__(self, observation: str, whole: np.ndarray, without: np.ndarray) -> None:
        self.observation, self.without = observation, without.astype(float)
        self.distance = float(np.abs(whole - self.without).mean())
        self.go = threading.Event()
        self.go.set()

    def read(self, images: np.ndarray) -> Sequence[Reading]:
        self.go.wait(20)
        return [self._answer(image) for image in images]

    def _answer(self, image: np.ndarray) -> Reading:
        there = min(float(np.abs(image - self.without).mean()) / self.distance, 1.0)
        probability = 0.05 + 0.9 * there
        term = self.observation.lower()
        said = f"Mild left {term}." if probability >= 0.5 else f"No {term}."
        maps = np.full((NUM_OBSERVATIONS, 8, 8), 0.3 / 62, dtype=np.float32)
        maps[:, 5, 2], maps[:, 5, 3] = 0.5, 0.2
        reading = make_reading({self.observation: probability, "Edema": 0.3}, {}, said, said, f"No edema. {said}")
        return replace(reading, evidence_maps=maps)


@pytest.fixture
def reacting(studies: Path, plans: list[StudyPlan]) -> Reacting:
    observation = plans[0].findings[0].observation
    whole, without = (render_uint8(plan, 64)[0] for plan in (plans[0], plans[0].without(observation)))
    return Reacting(observation, whole, without)


def context(reader: ImageReader) -> ExplanationContext:
    settings = ExplainConfig(indeterminate_logits=0.0)  # an untrained student hesitates, and would abstain
    return ExplanationContext(reader.name, reader.thresholds, make_library(), telling().labeler, settings)


def serving(reader: ImageReader, studies: Path, **settings: object) -> TestClient:
    config = ServeConfig.model_validate({"max_waiting": 16, "batch_size": 4, **settings})
    app = create_app(Jobs(reader, context(reader), config), config, Samples(studies))
    return TestClient(app, base_url="http://127.0.0.1")


@pytest.fixture
def client(reacting: Reacting, studies: Path) -> Iterator[TestClient]:
    with serving(reacting, studies) as found:
        yield found


def until(look: Callable[[], dict]) -> dict:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = look()
        if found["stage"] in ("done", "failed", "expired"):
            return found
        time.sleep(0.02)
    raise AssertionError("it did not end")


def done(client: TestClient, path: str) -> dict:
    sent = client.post(path)
    assert sent.status_code == 202, sent.text
    assert sent.headers["location"] == f"/v1/counterfactuals/{sent.json()['id']}"
    return until(lambda: client.get(sent.headers["location"]).json())


def explained(client: TestClient, path: str, **sent: object) -> dict:
    job = client.post(path, **sent).json()  # type: ignore[arg-type]
    return until(lambda: client.get(f"/v1/jobs/{job['id']}").json())


def pixels(client: TestClient, step: dict) -> np.ndarray:
    answer = client.get(step["image"])
    assert answer.headers["content-type"] == "image/png"
    return np.asarray(Image.open(io.BytesIO(answer.content)))


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


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def test_an_occlusion_changes_the_evidence_and_nothing_else(client: TestClient) -> None:
    result = explained(client, "/v1/explain", content=png(radiograph()))["result"]
    found = done(client, f"{result}/counterfactuals/Edema?steps=2")
    before, after = (pixels(client, step) for step in found["steps"])
    allowed, inside = np.zeros((2, 512, 512), bool)
    for row, column in PATCHES:
        inside[64 * row : 64 * row + 64, 64 * column : 64 * column + 64] = True
        allowed[64 * row - 16 : 64 * row + 80, 64 * column - 16 : 64 * column + 80] = True  # the soft border: 1/32
    assert np.array_equal(before[~allowed], after[~allowed]) and (before[inside] != after[inside]).mean() > 0.5
    assert "no healthy image" in found["made"] and "(2 of 64 patches, 70% of the evidence)" in found["made"]
    assert "(2 of 64 patches)" in found["summary"] and found["side"] is None
    assert client.get(found["steps"][0]["result"]).json() == client.get(result).json()
    last = client.get(found["steps"][1]["result"]).json()
    assert last["study_id"] == "uploaded image with the evidence for Edema blurred to 0"
    assert client.delete(result).status_code == 204  # and with the image goes what was made of it
    assert client.get(f"/v1/counterfactuals/{found['id']}").status_code == 404
    assert client.get(found["steps"][1]["result"]).status_code == 404


def test_an_occluded_copy_can_not_be_written_into_the_patients_study() -> None:
    with DecoderPool() as pool:
        image = image_of("x", png(radiograph()), 64, pool)._replace(header=object())  # type: ignore[arg-type]
    grid = np.zeros((8, 8))
    grid[2, 3] = 1
    occluded = occlude(image.pixels, image.display, tuple(map(tuple, grid)))
    whole, *copies = occluded_steps(image, occluded, "Edema", 3)
    assert whole is image and all(copy.header is None and copy.sha256 != image.sha256 for copy in copies)
    assert occluded.patches.sum() == 1 and np.array_equal(copies[-1].pixels, occluded.pixels)


def test_without_an_answer_there_is_no_evidence(client: TestClient, reacting: Reacting) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (128, 128)).astype(np.uint8)
    refused = explained(client, "/v1/explain", content=png(noise))["result"]
    answer = client.post(f"{refused}/counterfactuals/Edema")
    assert answer.status_code == 409 and "gave no answer" in answer.text
    reacting.go.clear()
    job = client.post("/v1/explain", content=png(radiograph())).json()
    assert client.post(f"/v1/results/{job['id']}/counterfactuals/Edema").status_code == 409
    reacting.go.set()


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


@cache
def telling() -> ExplanationContext:
    return ExplanationContext(
        "m", (0.5,) * NUM_OBSERVATIONS, make_library(), RuleLabeler(), ExplainConfig(quality="off")
    )


def said(probabilities: dict[str, float], text: str) -> Explanation:
    return explain("s", radiograph(), make_reading(probabilities, {}, text, "", text), telling())


LEFT, NO = "Mild left pleural effusion.", "No pleural effusion."


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ((0.97, LEFT), (0.95, LEFT), "hardly moved the model: Pleural Effusion went from 0.97 to 0.95 "
         "(threshold 0.50); its sentence stays in the report and the rationale although the finding is gone"),
        ((0.97, LEFT), (0.71, LEFT), "took Pleural Effusion from 0.97 to 0.71, still above its threshold of 0.50"),
        ((0.97, LEFT), (0.04, NO), "took Pleural Effusion from 0.97 to 0.04 (threshold 0.50); its sentence is gone;"),
        ((0.97, LEFT), (0.499, NO), "took Pleural Effusion from 0.97 to 0.50, just below its threshold of 0.50; its"),
        ((0.97, NO), (0.04, NO), "no sentence spoke of it, although the model had found it"),
        ((0.12, NO), (0.11, NO), "took Pleural Effusion from 0.12 to 0.11; the model had not found it "
         "(threshold 0.50); no sentence spoke of it, before or after"),
        ((0.12, NO), (0.80, LEFT), "above its threshold of 0.50, although the model had not found it before; "
         "a sentence about it has come into the report and the rationale"),
    ],
)  # fmt: skip
def test_the_line_says_also_where_the_model_does_not_react(
    before: tuple[float, str], after: tuple[float, str], told: str
) -> None:
    first, last = (said({"Pleural Effusion": value, "Atelectasis": 0.3}, text) for value, text in (before, after))
    line = summary(Change("removed", "Pleural Effusion", "left", first, last), telling().labeler)
    assert line.startswith("Removing the left pleural effusion ") and told in line


def test_the_line_tells_what_else_moved() -> None:
    first = said({"Edema": 0.9, "Atelectasis": 0.6, "Pneumonia": 0.3, "Fracture": 0.1, "No Finding": 0.1}, "")
    last = said({"Edema": 0.1, "Atelectasis": 0.4, "Pneumonia": 0.37, "Fracture": 0.2, "No Finding": 0.8}, "")
    line = summary(Change("removed", "Edema", "bilateral", first, last), telling().labeler)
    assert line.startswith("Removing the edema on both sides took Edema")
    assert "Atelectasis moved by −0.20 (to 0.40, now below its threshold), Fracture by +0.10, and 1 more" in line
    assert line.endswith("No Finding rose from 0.10 to 0.80.")


def test_all_paths_and_refusals_are_declared(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    remove = paths["/v1/samples/{number}/counterfactuals/{observation}"]["post"]["responses"]
    blur = paths["/v1/results/{job_id}/counterfactuals/{observation}"]["post"]["responses"]
    assert {"202", "401", "403", "404", "409", "422", "429"} <= set(remove) & set(blur)
    assert "get" in paths["/v1/samples/{number}/counterfactuals"]
    assert {"get", "delete"} <= set(paths["/v1/counterfactuals/{set_id}"])


def test_the_module_brings_no_markup_style_or_address() -> None:
    for name in ("counterfactual.js", "counterfactual.css"):
        content = resources.files("kdistill.serve.page").joinpath(name).read_text()
        for forbidden in ("http://", "https://", "innerHTML", "insertAdjacentHTML", ".style", "url("):
            assert forbidden not in content


@contextmanager
def listening(reader: ImageReader, studies: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = ServeConfig(port=port, deadline_s=300)
    server = server_of(create_app(Jobs(reader, context(reader), config), config, Samples(studies)), config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        thread.join(30)


MOUNT = """async () => {
  const { mountCounterfactual } = await import("/page/counterfactual.js");
  const ask = async (path, options) => {
    const answer = await fetch(path, options);
    const body = answer.status === 204 ? null : await answer.json();
    if (!answer.ok) throw new Error(body.detail);
    return body;
  };
  let job = await ask("/v1/samples/0/explain", { method: "POST" });
  while (job.stage !== "done") job = await ask(`/v1/jobs/${job.id}`);
  const explanation = await ask(job.result);
  const element = document.createElement("div");
  document.body.replaceChildren(element);
  window.readings = [];
  const onReading = (read, pixels, step) => window.readings.push({ read, pixels, step });
  window.given = explanation;
  window.mounted = mountCounterfactual(element, { sample: 0, resultId: job.id, explanation, ask, onReading });
}"""
MOVE = """() => {
  const slider = document.getElementById("cf-slider");
  const started = performance.now();
  slider.value = "5";
  slider.dispatchEvent(new Event("input"));
  return performance.now() - started;
}"""


def test_the_slider_by_keyboard_in_a_browser(reacting: Reacting, studies: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        pytest.skip("no Chromium is installed")
    with listening(reacting, studies) as url, playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(60_000)
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda told: problems.append(told.text) if told.type == "error" else None)
        page.route("**/favicon.ico", lambda route: route.fulfill(status=204))  # only the page itself names an icon
        page.goto(f"{url}healthz")  # the module alone, under the policy of every answer, whatever the page mounts
        page.evaluate(MOUNT)
        assert page.locator("optgroup").count() == 1  # what is present is told on demand alone
        page.locator(".cf-offer").press("Enter")
        page.locator("optgroup").nth(1).wait_for(state="attached")
        page.locator("#cf-choice").select_option(f"removed/{reacting.observation}")
        page.locator(".cf-start").press("Enter")
        page.locator(".cf-result").wait_for()
        assert "its sentence is gone" in page.locator(".cf-summary").inner_text()
        slider = page.locator("#cf-slider")
        assert slider.get_attribute("aria-valuetext") == "as it is" and page.locator("del, ins").count() == 0
        slider.press("End")
        assert slider.get_attribute("aria-valuetext") == "gone"
        gone, come = page.locator("del").all_inner_texts(), page.locator("ins").all_inner_texts()
        assert any("Mild left" in text for text in gone) and any("No " in text for text in come)
        slider.press("ArrowLeft")
        assert slider.get_attribute("aria-valuetext") == "at 20%"
        strengths = page.evaluate("window.readings.map((one) => one.step.strength)")
        assert strengths == [1, 0, 0.2]
        assert page.evaluate("window.readings[0].read === window.given && window.readings[1].read !== window.given")
        assert page.evaluate("window.readings.every((one) => one.pixels.startsWith('data:image/png'))")
        assert page.locator(".cf-chart .cf-dot").count() == 6 and page.locator(".cf-threshold").count() == 1
        assert "threshold 0.50" in str(page.locator(".cf-chart").get_attribute("aria-label"))
        assert page.evaluate(MOVE) < 100
        page.locator(".cf-back").press("Enter")
        assert page.evaluate("window.readings.at(-1).step.strength") == 1
        page.evaluate("window.mounted.close()")
        assert page.locator(".cf").count() == 0
        browser.close()
    assert problems == []
