"""One exception tree. Every message says what is wrong, where, and what to do about it."""

from __future__ import annotations


class KDistillError(Exception):
    """Base of all errors that a user can cause and mend.

    Args:
        what: What is wrong, without a patient identifier.
        where: File, line, tag, record or configuration key.
        remedy: What to do about it.

    Attributes:
        exit_code: The process exit status of the command line (2 bad input, 3 refused by policy, 4 environment).
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        self.what, self.where, self.remedy = what, where, remedy
        parts = [f"{where}: {what}" if where else what]
        if remedy:
            parts.append(remedy)
        super().__init__("\n  -> ".join(parts))


class InputError(KDistillError):
    """A file, record or argument cannot be used as it is."""


class ConfigError(InputError):
    """A recipe or an override is not valid."""


class WeightsError(InputError):
    """A weight file is unsafe, damaged or does not fit the model."""


class PolicyError(KDistillError):
    """The input is readable but refused by policy (leakage, overwriting a run, unsafe bind)."""

    exit_code = 3


class LeakageError(PolicyError):
    """A patient, a study or its pixels stand in two splits."""


class EnvironmentFault(KDistillError):
    """The machine is in the way: disk, lock, missing optional dependency."""

    exit_code = 4
