"""Load a run's student and serve it until a signal comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from kdistill.config import validate
from kdistill.errors import EnvironmentFault, PolicyError
from kdistill.serve.config import ServeConfig, is_loopback

_BACKLOG: Final = 2048


def serve_run(
    run_dir: Path,
    settings: Mapping[str, object],
    *,
    arm: str = "full",
    seed: int | None = None,
    against: str | None = None,
    announce: Callable[[str], None],
) -> None:
    """Serve one student; returns after SIGINT or SIGTERM, when what was accepted has been answered.

    Args:
        run_dir: The run.
        settings: Fields of `ServeConfig`.
        arm: Which student.
        seed: Which seed; None: the first.
        against: A second student to compare with, ARM or ARM:SEED; None: none.
        announce: Told in one sentence where to look, once the model is loaded.

    Raises:
        PolicyError: An address that others can reach, without a token.
        InputError: No such student, or one that cannot be loaded or compared; or the feedback file is not one.
        EnvironmentFault: The web framework is not installed, or the port is taken.
    """
    config = _checked(settings)
    try:
        from kdistill.serve.app import create_app
        from kdistill.serve.sockets import server_of
    except ImportError as error:
        raise EnvironmentFault(
            f"{error.name} is not installed, which serving needs", remedy="pip install 'kdistill[serve,hospital]'"
        ) from error
    from kdistill.serve.feedback import FeedbackStore
    from kdistill.serve.jobs import Jobs
    from kdistill.serve.models import Models, choice_of, load_model, reload_on_hangup

    second = None if against is None else choice_of(against, where="--against")
    feedback = FeedbackStore(config.feedback, max_mb=config.feedback_max_mb) if config.feedback else None
    loaded = load_model(run_dir, arm, seed)
    other = None if second is None else load_model(run_dir, *second, beside=loaded).model
    jobs = Jobs(*loaded.model, config, against=other)
    models = Models(run_dir, arm, seed, jobs, loaded.samples, against=second)
    server = server_of(create_app(jobs, config, loaded.samples, feedback, models), config)
    reload_on_hangup(models, announce, lambda: jobs.reader.name)
    try:
        listening = server.config.bind_socket()
    except SystemExit as error:
        raise EnvironmentFault(
            f"cannot listen on {config.host}:{config.port}", remedy="Is the port taken? Choose another --port."
        ) from error
    listening.listen(_BACKLOG)  # who reads the announcement and asks at once is answered
    host = f"[{config.host}]" if ":" in config.host else config.host
    compared = "" if other is None else f" (compared with {other.reader.name})"
    announce(
        f"{jobs.reader.name}{compared}: http://{host}:{listening.getsockname()[1]} (Ctrl-C ends it; research use only)"
    )
    server.run(sockets=[listening])


def _checked(settings: Mapping[str, object]) -> ServeConfig:
    host = str(settings.get("host", "127.0.0.1"))
    if settings.get("token") is None and not is_loopback(host):
        raise PolicyError(
            f"{host} can be reached from other machines, and there is no token",
            remedy="Give --token (16 characters or more; or KDISTILL_TOKEN), or listen on 127.0.0.1.",
        )
    return validate(ServeConfig, dict(settings), where="serve")
