"""An archive that is called: its address, certificates and times, and why an association did not come about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from kdistill.dicom_network.config import SendConfig, StoreTarget
from kdistill.dicom_network.parts import Outcome
from kdistill.dicom_network.tls import client_context


class UnreachedError(Exception):
    """There is no association; `outcome` is what that means for each object."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        super().__init__(outcome.reason)


class Peer:
    """An application entity that associations are asked of.

    Args:
        target: Which.
        config: Times, and certificates where it is spoken to over TLS.

    Raises:
        ConfigError, InputError, PolicyError, EnvironmentFault: A certificate or key cannot be used.
    """

    def __init__(self, target: StoreTarget, config: SendConfig) -> None:
        self._target, self._config = target, config
        self._tls = (client_context(config.tls_files), config.tls_name or target.host) if config.tls else None

    @contextmanager
    def call(self, contexts: Sequence[Any], handlers: Sequence[Any] = ()) -> Iterator[Any]:
        """An association, released at the end.

        Args:
            contexts: Presentation contexts to ask for.
            handlers: pynetdicom's event handlers, for requests that the other side makes in it.

        Raises:
            UnreachedError: There is none.
        """
        from kdistill.dicom_network.link import Caller

        entity = Caller(ae_title=self._config.aet)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = self._config.timeout_s
        entity.connection_timeout = self._config.timeout_s
        try:
            association = entity.associate(
                self._target.host,
                self._target.port,
                contexts=list(contexts),
                ae_title=self._target.aet,
                evt_handlers=list(handlers),
                tls_args=self._tls,
            )
        except OSError as error:  # its name is not known, or not now
            raise UnreachedError(Outcome("again", "the destination's name has no address")) from error
        if not association.is_established:
            raise UnreachedError(_why_not(association, entity.failure))
        try:
            yield association
        finally:
            if association.is_established:
                association.release()


def _why_not(association: Any, failure: str) -> Outcome:
    if association.is_rejected:
        return Outcome("again", "the destination rejects our association")
    if association.rejected_contexts and not association.accepted_contexts:
        return Outcome("refused", "the destination takes no such object")
    return Outcome("again", f"the destination {failure}")
