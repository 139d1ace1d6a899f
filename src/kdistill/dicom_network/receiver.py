"""The provider of C-STORE, C-ECHO and storage commitment reports: who may connect, how long, how much, and answers.

pynetdicom has timers for a silent peer. Added here: a time and a size for each unit and each object (a peer that drips
a byte a second is never silent), a bound on open connections that ask for nothing, and on requests sent ahead.

Source: DICOM PS3.8 9.3 (units of the upper layer), PS3.7 9.1.1 (C-STORE), PS3.4 Annex B (storage service class).
"""

from __future__ import annotations

import functools
import ipaddress
import logging
import socket
import socketserver
import ssl
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakKeyDictionary

from pydicom.pixels import get_decoder
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification  # type: ignore[attr-defined]
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from kdistill.dicom_network.commitment import Transactions, refuse_action
from kdistill.dicom_network.config import ListenConfig
from kdistill.dicom_network.counts import Counts
from kdistill.dicom_network.desk import Arrived, Desk
from kdistill.dicom_network.link import bound, close
from kdistill.dicom_network.tls import NoTlsError, handshake, reason_of, server_context
from kdistill.errors import EnvironmentFault
from kdistill.studies.codecs import NATIVE, SYNTAXES

logger = logging.getLogger(__name__)

CLASSES: Final = (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
)
#: Requests that a peer may send before the first is answered; the protocol's default window is one.
_MAX_AHEAD: Final = 2
#: JPEG extended is offered by whoever has 12-bit pixels, which only a GPL decoder reads: better sent uncompressed.
_NOT_ASKED_FOR: Final = "1.2.840.10008.1.2.4.51"
#: An association request (PS3.8 9.3.2) begins with it, a TLS handshake never.
_ASSOCIATE_RQ: Final = b"\x01"
_MAX_REQUEST_BYTES: Final = 65_536
#: A-ABORT by the provider, no reason given (PS3.8 9.3.8): what a DICOM peer without TLS understands.
_ABORT_UNIT: Final = b"\x07\x00\x00\x00\x00\x04\x00\x00\x02\x00"


def transfer_syntaxes() -> list[str]:
    """The transfer syntaxes whose pixels can be decoded with what is installed, the uncompressed ones first."""
    packed = [
        uid
        for uid, syntax in SYNTAXES.items()
        if uid != _NOT_ASKED_FOR and set(syntax.plugins) & set(get_decoder(UID(uid)).available_plugins)
    ]
    return [*sorted(NATIVE, key=["1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"].index), *packed]


class Receiver:
    """Listens until it is closed.

    Args:
        config: Where, to whom, how much.
        counts: Told of associations.
        desk: Who judges images that arrive; None: none are taken.
        transactions: Told of storage commitment reports; None: none are taken.

    Raises:
        EnvironmentFault: The port is taken or the address is not of this machine.
    """

    def __init__(
        self,
        config: ListenConfig,
        counts: Counts,
        *,
        desk: Desk | None = None,
        transactions: Transactions | None = None,
    ) -> None:
        self._desk = desk
        entity = _entity_of(config, stores=desk is not None, commits=transactions is not None)
        watch = _Watch(config)
        handlers: list[Any] = [
            (evt.EVT_C_ECHO, lambda event: 0x0000),
            (evt.EVT_ESTABLISHED, lambda event: counts.add("associations")),
            (evt.EVT_CONN_CLOSE, _left),
            (evt.EVT_DATA_RECV, watch.heard),
            (evt.EVT_DIMSE_RECV, watch.complete),
        ]
        if desk is not None:
            handlers.append((evt.EVT_C_STORE, functools.partial(_stored, desk)))
        if transactions is not None:
            handlers.append((evt.EVT_N_EVENT_REPORT, transactions.reported))
            handlers.append((evt.EVT_N_ACTION, refuse_action))
        try:
            self._server: Any = entity.make_server(
                (config.host, config.port),
                evt_handlers=handlers,
                ssl_context=server_context(config.tls_files, config.tls_peer) if config.tls_files.cert else None,
                server_class=_Server,
                request_handler=_Handler,
                config=config,
            )
        except OSError as error:
            raise EnvironmentFault(
                f"cannot listen on {config.host}:{config.port} ({error.strerror})",
                remedy="Is the port taken, or the address another machine's? Choose --port or --host.",
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="dicom-receiver")
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._server.server_address[1])

    def close(self, *, patience_s: float = 15.0) -> None:
        """Accept no connection any more, let running requests have their answer, then end every association."""
        socketserver.BaseServer.shutdown(self._server)  # pynetdicom's own forgets a server that it started itself
        self._thread.join()
        self._server.server_close()
        self.settle(patience_s)
        time.sleep(0.1)  # the last answers leave
        _end(self._server.active_associations)

    def settle(self, patience_s: float = 15.0) -> None:
        """Wait until every sender has its status, but no longer than `patience_s`."""
        deadline = time.monotonic() + patience_s
        while self._desk is not None and self._desk.num_taking and time.monotonic() < deadline:
            time.sleep(0.02)


def _stored(desk: Desk, event: evt.Event) -> Any:
    request: Any = event.request
    stream = request.DataSet
    sop_class, instance = str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID)
    data = as_file(sop_class, instance, str(event.context.transfer_syntax), stream.getvalue() if stream else b"")
    return desk.take(Arrived(sop_class, instance, data)).as_status()


def _entity_of(config: ListenConfig, *, stores: bool, commits: bool) -> AE:
    entity = _Entity(ae_title=config.aet)
    entity.acse_timeout, entity.dimse_timeout = config.acse_timeout_s, config.dimse_timeout_s
    entity.network_timeout = config.network_timeout_s
    entity.maximum_associations = config.max_associations
    entity.require_called_aet = True
    entity.require_calling_aet = list(config.calling_aets)
    for sop_class in CLASSES if stores else ():
        entity.add_supported_context(sop_class, transfer_syntaxes())
    entity.add_supported_context(Verification)
    if commits:  # the other side is the provider: one that asks for the user's role is not accepted (PS3.7 D.3.3.4)
        entity.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
    return entity


class _Entity(AE):
    """Counts as associations only those that were asked for: a silent connection must not cost anybody a place."""

    @property
    def active_associations(self) -> list[Association]:
        return [found for found in super().active_associations if found.requestor.primitive is not None]


class _Server(ThreadedAssociationServer):
    request_queue_size = 64

    def __init__(self, *args: Any, config: ListenConfig, **options: Any) -> None:
        self.config = config
        self._lock, self._num_greeting = threading.Lock(), 0
        super().__init__(*args, **options)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Refuse a connection before a byte of it is read."""
        address = ipaddress.ip_address(str(client_address[0]).partition("%")[0])
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        if not any((mapped or address) in network for network in self.config.networks):
            logger.warning("a connection from an address that is not allowed was closed")
            return False
        if len(self.active_associations) + self._num_greeting >= self.config.max_connections:
            logger.warning("a connection was closed: %d are open", self.config.max_connections)
            return False
        return True

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Accept a connection; a read from it, or a write to it, ends after the network timeout.

        pynetdicom's own would agree on TLS here, in the one thread that accepts, without a time limit.
        """
        assert self.socket is not None
        connection, address = self.socket.accept()
        connection.settimeout(self.ae.network_timeout)
        return connection, address

    def process_request(self, request: Any, client_address: Any) -> None:
        """Count a connection as one that has not asked for anything yet, until its thread has greeted it."""
        self.greet(1)
        try:
            super().process_request(request, client_address)
        except BaseException:
            self.greet(-1)
            raise

    def greet(self, number: int) -> None:
        """Raise or lower the number of connections that have not been greeted."""
        with self._lock:
            self._num_greeting += number

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Socketserver's own would print the peer and a traceback."""
        logger.error("a connection could not be handled")


class _Handler(RequestHandler):
    server: _Server

    def handle(self) -> None:
        """Agree on TLS where it is spoken here, in the connection's own thread; then start its association."""
        try:
            if self.server.ssl_context is not None:
                self.request = self._secured(self.request, self.server.ssl_context)
        except OSError as error:
            logger.warning("a connection was closed: %s", reason_of(error))
            return
        finally:
            self.server.greet(-1)
        super().handle()

    def _secured(self, connection: socket.socket, context: ssl.SSLContext) -> socket.socket:
        seconds = self.server.config.acse_timeout_s
        try:
            connection.settimeout(seconds)
            if connection.recv(1, socket.MSG_PEEK) == _ASSOCIATE_RQ:
                connection.recv(_MAX_REQUEST_BYTES)  # a close with bytes unread would take the abort back
                connection.sendall(_ABORT_UNIT)
                raise NoTlsError
        except OSError:
            connection.close()
            raise
        secured = handshake(context, connection, seconds)
        secured.settimeout(self.server.config.network_timeout_s)
        return secured

    def _create_association(self) -> Association:
        association = super()._create_association()
        bound(association.dul.socket, self.server.config.network_timeout_s)
        return association


def _left(event: evt.Event) -> None:
    """Free the place of a connection that closed before it asked for anything: a health check, a scan of ports.

    pynetdicom 3.0.4 would wait for its request until the time for one is over, and 64 of these keep everybody out.
    """
    if event.assoc.requestor.primitive is None:
        event.assoc.dul.to_user_queue.put(None)  # type: ignore[arg-type]  # what it reads where no request has come in time


@dataclass
class _Arriving:
    since: float
    num_bytes: int = 0


class _Watch:
    """Ends an association whose object grows or lasts beyond its limits, or that sends requests far ahead."""

    def __init__(self, config: ListenConfig) -> None:
        self._max_bytes, self._seconds = config.max_object_mb * 1_000_000, config.object_timeout_s
        self._lock = threading.Lock()
        self._arriving: WeakKeyDictionary[Association, _Arriving] = WeakKeyDictionary()

    def heard(self, event: evt.Event) -> None:
        """One unit has come; the first of an object starts its time."""
        if not event.assoc.is_established:
            return
        now = time.monotonic()
        with self._lock:
            state = self._arriving.setdefault(event.assoc, _Arriving(now))
            state.num_bytes += len(event.data)
        if state.num_bytes > self._max_bytes:
            _abort(event.assoc, "an object larger than allowed")
        elif now - state.since > self._seconds:
            _abort(event.assoc, "an object that took too long to arrive")

    def complete(self, event: evt.Event) -> None:
        """One message is whole."""
        with self._lock:
            self._arriving.pop(event.assoc, None)
        if event.assoc.dimse.msg_queue.qsize() >= _MAX_AHEAD:
            _abort(event.assoc, "requests sent without waiting for an answer")


def _abort(association: Association, why: str) -> None:
    logger.warning("an association was aborted: %s", why)
    association.abort()


def _end(associations: Sequence[Association], patience_s: float = 5.0) -> None:
    """Abort what is established, close every socket, and wait a little for the threads: the process shall end."""
    for association in associations:
        if association.is_established:
            association.abort(block=False)
    time.sleep(0.1)  # the abort leaves
    for association in associations:
        if association.dul.socket is not None:
            close(association.dul.socket)
    killers = [threading.Thread(target=association.kill, daemon=True) for association in associations]
    for killer in killers:
        killer.start()
    deadline = time.monotonic() + patience_s
    for killer in killers:
        killer.join(max(0.0, deadline - time.monotonic()))


def as_file(sop_class: str, instance: str, syntax: str, data: bytes) -> bytes:
    """The file (PS3.10 7.1) of a data set as it came.

    Written by hand: equal bytes for equal data sets, whatever library received them, and a UID with a fault in it,
    of which archives are full, is no reason to refuse an image.
    """
    uids = [(0x0002, sop_class), (0x0003, instance), (0x0010, syntax)]
    version = struct.pack("<HH2sHL", 2, 0x0001, b"OB", 0, 2) + b"\x00\x01"
    meta = version + b"".join(_uid_element(number, uid) for number, uid in uids)
    length = struct.pack("<HH2sHL", 2, 0x0000, b"UL", 4, len(meta))
    return b"\x00" * 128 + b"DICM" + length + meta + data


def _uid_element(number: int, uid: str) -> bytes:
    value = uid.encode("ascii", "replace")
    value += b"\x00" * (len(value) % 2)
    return struct.pack("<HH2sH", 2, number, b"UI", len(value)) + value
