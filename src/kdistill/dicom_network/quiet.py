"""Silence for libraries that put what a peer sent into warnings and logs: names, identifiers, UIDs."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)


@contextmanager
def quiet_network() -> Iterator[None]:
    """Keep pynetdicom, pydicom and highdicom from logging and warning; for a whole process, entered by its main thread.

    The log handlers that pynetdicom binds to each association are left out too: they would write every message as text
    only to have it dropped. A peer that breaks the protocol in certain ways makes pynetdicom 3.0.4 raise in the threads
    of its one connection, which ends with that: a line says so, instead of a traceback with words of the peer's.
    """
    from pynetdicom import _config
    from pynetdicom.association import Association
    from pynetdicom.dul import DULServiceProvider

    hook = threading.excepthook

    def tell(raised: threading.ExceptHookArgs) -> None:
        if isinstance(raised.thread, Association | DULServiceProvider):
            logger.warning("a connection ended: its peer broke the protocol (%s)", raised.exc_type.__name__)
        else:
            hook(raised)

    loggers = [logging.getLogger(name) for name in ("pynetdicom", "pydicom", "highdicom")]
    before, handlers = [library.level for library in loggers], _config.LOG_HANDLER_LEVEL
    for library in loggers:
        library.setLevel(logging.CRITICAL + 1)
    _config.LOG_HANDLER_LEVEL = "none"
    threading.excepthook = tell
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        threading.excepthook = hook
        _config.LOG_HANDLER_LEVEL = handlers
        for library, level in zip(loggers, before, strict=True):
            library.setLevel(level)
