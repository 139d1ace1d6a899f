"""A real server on loopback with a real, tiny student; `python -m tests.serve.serving` is one in its own process."""

from __future__ import annotations

import importlib.util
import io
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import uvicorn
from fastapi import FastAPI
from PIL import Image

from kdistill.explain.build import ExplanationContext
from kdistill.explain.config import ExplainConfig
from kdistill.explain.reading import ImageReader
from kdistill.explain.student_reader import ReadingSettings, StudentReader
from kdistill.labelers.rules import RuleLabeler
from kdistill.observations import NUM_OBSERVATIONS
from kdistill.records import Study, StudyImage, Truth
from kdistill.serve.app import create_app
from kdistill.serve.config import ServeConfig
from kdistill.serve.feedback import FeedbackStore
from kdistill.serve.jobs import Jobs, Model
from kdistill.serve.samples import Samples
from kdistill.serve.sockets import server_of
from kdistill.student.text import token_ids
from kdistill.teacher.tokenizer import train_tokenizer

from ..explain.conftest import make_library, radiograph
from ..student.small import llama, small_student

THRESHOLDS = (0.5,) * NUM_OBSERVATIONS


#: What `small_student` reads.
SIZE_PX = 32


def tiny_reader(name: str = "tiny", weights: int = 0) -> StudentReader:
    """A student of the true architecture that has learned nothing; `weights` tells two of them apart."""
    tokenizer = train_tokenizer(["The heart is large. No effusion is seen."] * 3, 300)
    model = small_student(weights, language=llama(len(tokenizer)), token_ids=token_ids(tokenizer))
    return StudentReader(name, model, tokenizer, THRESHOLDS, ReadingSettings(True, 8))


def context_of(name: str) -> ExplanationContext:
    """The library that goes with it."""
    return ExplanationContext(name, THRESHOLDS, make_library(), RuleLabeler(), ExplainConfig())


def write_studies(folder: Path, number: int = 3) -> Path:
    """A published studies folder with a few test studies, of the size that `tiny_reader` reads."""
    studies = [
        Study(
            study_id=f"s{n}", patient_id=f"p{n}", split="test", images=(StudyImage(image_path=f"{n}.png", row=n),),
            source="phantom", findings="No effusion.",
        )
        for n in range(number)
    ]  # fmt: skip
    truths = [Truth(study_id=study.study_id, truth={"Edema": 0}, masks={}) for study in studies]
    (folder / "studies.jsonl").write_text("".join(study.model_dump_json() + "\n" for study in studies))
    (folder / "truth.jsonl").write_text("".join(truth.model_dump_json() + "\n" for truth in truths))
    np.save(folder / "images.npy", np.stack([radiograph(SIZE_PX, seed=n) for n in range(number)]))
    return folder


@cache
def _film(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(radiograph(seed=seed)).save(buffer, format="PNG")
    return buffer.getvalue()


def distinct_png(number: int) -> bytes:
    """A radiograph whose bytes no other number has: rendering thousands would take minutes."""
    return benchmark().with_comment(_film(number % 8), number)


@cache
def benchmark() -> ModuleType:
    """benchmarks/serve_load.py."""
    path = Path(__file__).parents[2] / "benchmarks" / "serve_load.py"
    spec = importlib.util.spec_from_file_location("serve_load", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["serve_load"] = module
    spec.loader.exec_module(module)
    return module


@contextmanager
def listening(app: FastAPI, config: ServeConfig, *, idle_s: int = 10) -> Iterator[tuple[uvicorn.Server, int]]:
    """(server, port) of an application that listens; `config.port` is 0."""
    server = server_of(app, config, idle_s=idle_s)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.02)
        yield server, server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive(), "the server did not end"


def app_of(
    reader: ImageReader, config: ServeConfig, studies_dir: Path | None = None, against: ImageReader | None = None
) -> FastAPI:
    """The application around a reader, and around one that it is compared with."""
    samples = None if studies_dir is None else Samples(studies_dir)
    other = None if against is None else Model(against, context_of(against.name))
    store = FeedbackStore(config.feedback) if config.feedback else None
    return create_app(Jobs(reader, context_of(reader.name), config, against=other), config, samples, store)


def main() -> None:
    """Listen until a signal comes; the first line printed is the port."""
    import torch

    torch.set_num_threads(1)
    config = ServeConfig.model_validate({"port": 0})
    server = server_of(app_of(tiny_reader(), config), config)
    found = server.config.bind_socket()
    found.listen(2048)
    print(found.getsockname()[1], flush=True)
    server.run(sockets=[found])


if __name__ == "__main__":
    sys.exit(main())
