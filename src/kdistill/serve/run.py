"""Load a run's student and serve it until a signal comes."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from kdistill.config import validate
from kdistill.errors import ConfigError, EnvironmentFault, PolicyError
from kdistill.serve.config import MIN_TOKEN, ServeConfig, is_loopback

_BACKLOG: Final = 2048
_NEW_TOKEN: Final = "python -c 'import secrets; print(secrets.token_urlsafe())' prints one."


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
        ConfigError: A token that can be guessed, or another setting that is none.
        InputError: No such student, or one that cannot be loaded or compared; or the feedback file is not one.
        EnvironmentFault: The web framework is not installed, the port is taken, or the address is not this machine's.
    """
    config = _checked(settings)
    try:
        import kdistill.serve.app
        import kdistill.serve.sockets  # noqa: F401
    except ImportError as error:
        raise EnvironmentFault(
            f"{error.name} is not installed, which serving needs", remedy="pip install 'kdistill[serve,hospital]'"
        ) from error
    with _bound(config.host, config.port) as listening:  # a port that is taken is told before the model is loaded
        _serve(run_dir, config, arm, seed, against, listening, announce)


def _serve(
    run_dir: Path,
    config: ServeConfig,
    arm: str,
    seed: int | None,
    against: str | None,
    listening: socket.socket,
    announce: Callable[[str], None],
) -> None:
    from kdistill.serve.app import create_app
    from kdistill.serve.feedback import FeedbackStore
    from kdistill.serve.jobs import Jobs
    from kdistill.serve.models import Models, choice_of, load_model, reload_on_hangup
    from kdistill.serve.sockets import server_of

    second = None if against is None else choice_of(against, where="--against")
    feedback = FeedbackStore(config.feedback, max_mb=config.feedback_max_mb) if config.feedback else None
    loaded = load_model(run_dir, arm, seed)
    other = None if second is None else load_model(run_dir, *second, beside=loaded).model
    jobs = Jobs(*loaded.model, config, against=other)
    models = Models(run_dir, arm, seed, jobs, loaded.samples, against=second)
    server = server_of(create_app(jobs, config, loaded.samples, feedback, models), config)
    reload_on_hangup(models, announce, lambda: jobs.reader.name)
    listening.listen(_BACKLOG)  # who reads the announcement and asks at once is answered
    host = f"[{config.host}]" if ":" in config.host else config.host
    compared = "" if other is None else f" (compared with {other.reader.name})"
    announce(
        f"{jobs.reader.name}{compared}: http://{host}:{listening.getsockname()[1]} (Ctrl-C ends it; research use only)"
    )
    server.run(sockets=[listening])


def _bound(host: str, port: int) -> socket.socket:
    """A socket that has its address and does not listen yet.

    Raises:
        EnvironmentFault: It cannot have that address; why, and what to do.
    """
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that has just ended may still hold the port
        made.bind((host, port))
    except OSError as error:
        made.close()
        reason, remedy = _why_not_bound(error)
        raise EnvironmentFault(f"cannot listen on {host}:{port}: {reason}", remedy=remedy) from error
    return made


def _why_not_bound(error: OSError) -> tuple[str, str]:
    match error.errno:
        case errno.EADDRINUSE:
            return "another program listens there", "Choose another --port (0: any free one), or end that program."
        case errno.EACCES | errno.EPERM:
            return "this user may not (ports below 1024)", "Choose a --port of 1024 or more."
        case errno.EADDRNOTAVAIL | socket.EAI_NONAME | socket.EAI_AGAIN | socket.EAI_NODATA:
            return "that is no address of this machine", "Give --host an address of this machine, or 127.0.0.1."
        case _:
            return error.strerror or type(error).__name__, "Choose another --port or --host."


def _checked(settings: Mapping[str, object]) -> ServeConfig:
    host = str(settings.get("host", "127.0.0.1"))
    if settings.get("token") is None and not is_loopback(host):
        raise PolicyError(
            f"{host} can be reached from other machines, and there is no token",
            remedy="Give --token (16 characters or more; or KDISTILL_TOKEN), or listen on 127.0.0.1.",
        )
    token = settings.get("token")
    if isinstance(token, str) and len(token) < MIN_TOKEN:
        raise ConfigError(f"has fewer than {MIN_TOKEN} characters", where="--token (KDISTILL_TOKEN)", remedy=_NEW_TOKEN)
    return validate(ServeConfig, dict(settings), where="serve")
