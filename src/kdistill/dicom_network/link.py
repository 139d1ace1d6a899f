"""Connections whose reads and writes end in time, plain and TLS; pynetdicom's own wait for ever for the other side."""

from __future__ import annotations

import contextlib
import functools
import logging
import socket
import ssl
import time
from typing import Any, Final

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.transport import AddressInformation, AssociationSocket

from kdistill.dicom_network.tls import handshake, reason_of

logger = logging.getLogger(__name__)

#: We ask for units of 16 kB; an association request with 128 contexts stays far below this.
_MAX_UNIT_BYTES: Final = 1_000_000
_CHUNK_BYTES: Final = 65_536
#: Type and length of a unit of the upper layer (PS3.8 9.3.1), with which each begins.
_HEAD_BYTES: Final = 6
#: A record of a TLS handshake, any version (RFC 8446 5.1); no unit of DICOM has this type.
_CLIENT_HELLO: Final = b"\x16\x03"
_UNREACHED: Final = "cannot be reached"
_SILENT: Final = "gave no answer, or hung up (does it speak TLS? then --to-tls)"
_SILENT_TLS: Final = "gave no answer, or hung up, once TLS was agreed on (does it know the CA of our certificate?)"


def receive(link: Any, seconds: float, number: int) -> bytearray:
    """Read so many bytes of one unit, or fail: neither an impossible length nor a slow drip holds a thread for long."""
    if number > _MAX_UNIT_BYTES:
        raise OSError("a unit of impossible length")
    found, deadline = bytearray(), time.monotonic() + seconds
    while len(found) < number:
        if time.monotonic() > deadline:
            raise TimeoutError("a unit took too long")
        more = link.socket.recv(min(_CHUNK_BYTES, number - len(found)))
        if not more:
            break
        found.extend(more)
    if number == _HEAD_BYTES and found.startswith(_CLIENT_HELLO) and not isinstance(link.socket, ssl.SSLSocket):
        logger.warning("a peer speaks TLS, and this port does not: give --tls-cert, or let the peer send without TLS")
    return found


def close(link: Any) -> None:
    """Close a connection also where the peer has closed it first: pynetdicom's own then leaves it open."""
    if link.socket is not None:
        with contextlib.suppress(OSError):
            link.socket.shutdown(socket.SHUT_RDWR)
        link.socket.close()


def bound(link: Any, seconds: float) -> None:
    """Put time limits on the reads of a connection that was accepted, and close it for good at its end."""
    link.recv = functools.partial(receive, link, seconds)  # there is no hook for either
    link._shutdown_socket = functools.partial(close, link)


def _over_tls(error: OSError) -> str:
    return f"cannot be spoken to over TLS: {reason_of(error)}"


class Caller(AE):
    """An application entity that asks for associations; `failure` is how far the last one got, and what ended it."""

    failure = _UNREACHED

    def _create_socket(self, assoc: Association, address: AddressInformation, tls_args: Any) -> AssociationSocket:
        link = _OutgoingLink(assoc, address=address)
        link.tls_args, link.caller, link.seconds = tls_args, self, float(self.network_timeout or 0)
        self.failure = _UNREACHED
        return link


class _OutgoingLink(AssociationSocket):
    caller: Caller
    seconds: float

    def connect(self, primitive: Any) -> None:
        """Open it, agree on TLS where that is wished, and tell the state machine how that ended."""
        address = primitive.address_info.as_tuple
        try:
            assert self.socket is not None
            self.socket.settimeout(self.caller.connection_timeout)
            self.socket.connect(address)
            self.caller.failure = _SILENT
            if self.tls_args:
                self.socket = self._secured(self.socket)
            self.socket.settimeout(self.seconds)
            self.assoc.requestor.address_info = AddressInformation.from_tuple(self.socket.getsockname())
            self._is_connected = True
            evt.trigger(self.assoc, evt.EVT_CONN_OPEN, {"address": address})
            primitive.result = "Evt2"  # transport connection confirmed (PS3.8 Table 9-1)
        except OSError:
            close(self)
            self.socket = None
            primitive.result = "Evt17"  # transport connection closed
        finally:
            self.provider_queue.put(primitive)
            self._ready.set()

    def _secured(self, connection: socket.socket) -> socket.socket:
        assert self.tls_args is not None
        context, name = self.tls_args
        try:
            secured = handshake(context, connection, self.seconds, name=name)
        except OSError as error:
            self.caller.failure = _over_tls(error)
            raise
        self.caller.failure = _SILENT_TLS  # a server of TLS 1.3 looks at our certificate after the handshake
        return secured

    def recv(self, nr_bytes: int) -> bytearray:
        """See `receive`; an alert instead of an answer says why."""
        try:
            return receive(self, self.seconds, nr_bytes)
        except ssl.SSLError as error:
            self.caller.failure = _over_tls(error)
            raise

    def send(self, bytestream: bytes) -> None:
        """Write one unit, or end the connection: whoever reads nothing, or a byte now and then, is not waited for."""
        deadline, sent = time.monotonic() + self.seconds, 0
        try:
            assert self.socket is not None
            while sent < len(bytestream):
                if time.monotonic() > deadline:
                    raise TimeoutError
                sent += self.socket.send(bytestream[sent:])
            evt.trigger(self.assoc, evt.EVT_DATA_SENT, {"data": bytestream})
        except Exception:  # as in the base class: whatever it was, the connection is of no use any more
            self.event_queue.put("Evt17")

    def _shutdown_socket(self) -> None:
        close(self)
