"""Silence for libraries that put what a peer sent into warnings and logs: names, identifiers, UIDs."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_network() -> Iterator[None]:
    """Keep pynetdicom, pydicom and highdicom from logging and warning; for a whole process, entered by its main thread.

    The log handlers that pynetdicom binds to each association are left out too: they would write every message as text
    only to have it dropped.
    """
    from pynetdicom import _config

    loggers = [logging.getLogger(name) for name in ("pynetdicom", "pydicom", "highdicom")]
    before, handlers = [logger.level for logger in loggers], _config.LOG_HANDLER_LEVEL
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    _config.LOG_HANDLER_LEVEL = "none"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        _config.LOG_HANDLER_LEVEL = handlers
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
