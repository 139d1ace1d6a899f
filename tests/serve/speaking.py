"""A reader that says something worth judging, the reading room that asks, and what was kept."""

from __future__ import annotations

import json
from pathlib import Path

from fastapi.testclient import TestClient

from kdistill.serve.app import create_app
from kdistill.serve.config import ServeConfig
from kdistill.serve.feedback import FeedbackStore
from kdistill.serve.feedback_export import export_lines
from kdistill.serve.jobs import Jobs
from kdistill.serve.judgements import Judgement, ShownFinding

from ..explain.conftest import QUOTE, make_reading
from .telling import Clock, Telling, context, png, wait

EDEMA = {"kind": "finding", "observation": "Edema", "verdict": "agree"}


class Speaking(Telling):
    """Sees an edema and a left effusion, and says so; writes a rationale of two sentences."""

    @staticmethod
    def answer(image: object) -> object:
        return make_reading(
            {"Edema": 0.9, "Pleural Effusion": 0.8, "Pneumonia": 0.52},
            {"Pleural Effusion": "left"},
            findings="There is edema. There is a left pleural effusion.",
            impression="Edema.",
            rationale=f"Left pleural effusion. {QUOTE}",
        )


def serving(file: Path | None, **settings: object) -> TestClient:
    config = ServeConfig.model_validate({"feedback": file, **settings})
    store = FeedbackStore(file, max_mb=config.feedback_max_mb, wait_s=0.3) if file else None
    app = create_app(Jobs(Speaking(), context(), config, clock=Clock()), config, feedback=store)  # type: ignore[arg-type]
    return TestClient(app, base_url="http://127.0.0.1")


def explained(client: TestClient, data: bytes | None = None) -> str:
    sent = client.post("/v1/explain", content=data or png())
    return str(wait(client, sent.json())["result"])


def judgement(**changes: object) -> Judgement:
    shown = ShownFinding(probability=0.9, threshold=0.5, state="present", side=None)
    said = {"target": "finding/Edema", "verdict": "agree", "state": "present", "time": "2026-11-26T08:00:00+00:00"}
    return Judgement.model_validate({"image_sha256": "ab" * 32, "model": "m", "shown": shown, **said, **changes})


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in export_lines(file)]
