"""Storage commitment, as its user: an archive is asked to keep what it was sent, and its report is waited for.

The status of a C-STORE says that an object has arrived. Here the archive is asked (N-ACTION) whether it takes the
responsibility for it, and tells (N-EVENT-REPORT): in the association of the question, or later in one of its own.

Source: DICOM PS3.4 Annex J (push model), PS3.3 C.14 (its data set), PS3.7 10.1.1 and 10.1.4.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from kdistill.dicom_network.config import SendConfig, StoreTarget
from kdistill.dicom_network.counts import Counts
from kdistill.dicom_network.parts import Outcome, Part
from kdistill.dicom_network.peer import Peer, UnreachedError

if TYPE_CHECKING:
    from pydicom import Dataset

logger = logging.getLogger(__name__)

PUSH_MODEL: Final = "1.2.840.10008.1.20.1"
#: The one instance of that class (PS3.4 J.3.5, PS3.6 A).
WELL_KNOWN: Final = "1.2.840.10008.1.20.1.1"
#: Action type (PS3.4 Table J.3-1) and event types (Table J.3-2).
_REQUEST: Final = 1
_EVENTS: Final = frozenset({1, 2})
#: An archive that reports at once may do so in the association of the question; it is not kept from others for longer.
_HOLD_S: Final = 2.0
#: Transactions that are remembered, so that a report that comes late is not taken for a stranger's.
_REMEMBERED: Final = 1_000
#: PS3.3 C.14.1.1.
_REASONS: Final[Mapping[int, str]] = MappingProxyType(
    {
        0x0110: "processing failure",
        0x0112: "it has no such object",
        0x0119: "it has this object with another class",
        0x0122: "it does not commit to objects of this class",
        0x0131: "it knows the transaction already",
        0x0213: "it has not the resources",
    }
)
_NO_ACTION, _NO_EVENT, _INVALID = 0x0123, 0x0113, 0x0115
_COMMITTED: Final = Outcome("delivered")


class Transaction:
    """One question and what came of it; `ended` is set by the report."""

    def __init__(self, uid: str, parts: Sequence[Part]) -> None:
        self.uid, self.ended = uid, threading.Event()
        self.asked = {part.instance: part.sop_class for part in parts}
        self._told: dict[str, Outcome] = {}

    def outcome_of(self, part: Part, otherwise: str) -> Outcome:
        """Whether the archive has committed to an object.

        Args:
            part: The object.
            otherwise: Why not, where there was no report.
        """
        reason = "the archive's report does not name it" if self.ended.is_set() else otherwise
        return self._told.get(part.instance, Outcome("uncommitted", reason))

    def tell(self, committed: Sequence[tuple[str, str]], failed: Mapping[str, int]) -> None:
        """Take a report: what it commits to is what was asked about, under the same class, and has not failed too."""
        for instance, sop_class in committed:
            if self.asked.get(instance) == sop_class:
                self._told[instance] = _COMMITTED
        for instance, number in failed.items():
            why = f"failure reason 0x{number:04X}, {_REASONS.get(number, 'which the standard does not know')}"
            self._told[instance] = Outcome("uncommitted", f"the archive does not commit to it: {why}")
        self.ended.set()

    def as_dataset(self) -> Dataset:
        """The action information (PS3.4 Table J.3-1)."""
        from pydicom import Dataset

        found = Dataset()
        found.TransactionUID, found.ReferencedSOPSequence = self.uid, []
        for instance, sop_class in self.asked.items():
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, instance
            found.ReferencedSOPSequence.append(item)
        return found


class Transactions:
    """What archives were asked and have not told yet. Any thread may call.

    Args:
        counts: Told of reports that belong to nothing.
    """

    def __init__(self, counts: Counts) -> None:
        self._counts, self._lock = counts, threading.Lock()
        self._open: dict[str, Transaction] = {}
        self._over: OrderedDict[str, None] = OrderedDict()

    @contextmanager
    def begin(self, parts: Sequence[Part]) -> Iterator[Transaction]:
        """A transaction that takes a report as long as it is entered."""
        from pydicom.uid import generate_uid

        transaction = Transaction(str(generate_uid(prefix=None)), parts)  # random: nobody can guess it
        with self._lock:
            self._open[transaction.uid] = transaction
        try:
            yield transaction
        finally:
            with self._lock:
                del self._open[transaction.uid]
                self._over[transaction.uid] = None
                while len(self._over) > _REMEMBERED:
                    self._over.popitem(last=False)

    def reported(self, event: Any) -> tuple[Any, None]:
        """Take an N-EVENT-REPORT request; its answer.

        Args:
            event: pynetdicom's.
        """
        if event.event_type not in _EVENTS:
            return _answer(_NO_EVENT, "an event type that storage commitment does not have")
        try:
            uid, committed, failed = _read(event.event_information)
        except Exception as error:  # FAULTS 14, 15: whatever a peer sends
            logger.warning("a storage commitment report cannot be read (%s)", type(error).__name__)
            return _answer(_INVALID, "the report cannot be read")
        with self._lock:
            transaction, is_over = self._open.get(uid), uid in self._over
            if transaction is not None and not transaction.ended.is_set():
                transaction.tell(committed, failed)
        if transaction is None and is_over:
            logger.warning("a storage commitment report came too late: its objects count as not committed")
        elif transaction is None:
            self._counts.add("reports_unknown")
            logger.warning("a storage commitment report names a transaction that we did not begin")
            return _answer(_INVALID, "no transaction of ours")
        return 0x0000, None


def refuse_action(event: Any) -> tuple[Any, None]:
    """Answer an N-ACTION: we keep nothing, so nobody may rely on us and delete their own.

    Args:
        event: pynetdicom's.
    """
    logger.warning("a peer asked us to commit to its images, and was refused: nothing is stored here")
    return _answer(_NO_ACTION, "nothing is stored here: ask the archive to commit")


class Confirmer:
    """Asks one archive to commit to what it was sent. Any thread may call; the archive is asked one thing at a time.

    Args:
        target: The archive.
        config: Times, and certificates where it is spoken to over TLS.
        transactions: Told of reports; a receiver must pass those on that come in associations of their own.
    """

    def __init__(self, target: StoreTarget, config: SendConfig, transactions: Transactions) -> None:
        self._peer, self._config, self._transactions = Peer(target, config), config, transactions
        self._lock = threading.Lock()

    def confirm(self, parts: Sequence[Part]) -> list[Outcome]:
        """Ask, and wait for the report, but no longer than `commit_wait_s`.

        Args:
            parts: Objects that the archive has got.

        Returns:
            "delivered" for each that it has committed to, "uncommitted" for each other.
        """
        with self._transactions.begin(parts) as transaction:
            otherwise = self._ask(transaction)
            if otherwise is None:
                transaction.ended.wait(self._config.commit_wait_s)
                otherwise = f"the archive did not report in {self._config.commit_wait_s:g} s"
            return [transaction.outcome_of(part, otherwise) for part in parts]

    def _ask(self, transaction: Transaction) -> str | None:
        """Send the question; why a report need not be waited for."""
        from pynetdicom import build_context, evt

        handlers = [(evt.EVT_N_EVENT_REPORT, self._transactions.reported)]
        try:
            with self._lock, self._peer.call([build_context(PUSH_MODEL)], handlers) as association:
                answer, _ = association.send_n_action(transaction.as_dataset(), _REQUEST, PUSH_MODEL, WELL_KNOWN)
                status = answer.get("Status")
                if status == 0:
                    transaction.ended.wait(min(_HOLD_S, self._config.commit_wait_s))
        except UnreachedError as error:
            is_unknown = error.outcome.fate == "refused"
            return "the destination has no storage commitment" if is_unknown else error.outcome.reason
        except Exception as error:  # an association that ended, a question that cannot be written
            return f"the archive could not be asked ({type(error).__name__})"
        # Without an answer the question may have arrived all the same.
        return None if status in (None, 0) else f"the archive was asked, and answered 0x{status:04X}"


def _read(found: Dataset) -> tuple[str, list[tuple[str, str]], dict[str, int]]:
    """A report's transaction, what it commits to, and the reasons of what it does not."""
    committed = [
        (str(item.ReferencedSOPInstanceUID), str(item.ReferencedSOPClassUID))
        for item in found.get("ReferencedSOPSequence") or ()
    ]
    failed = {
        str(item.ReferencedSOPInstanceUID): int(item.get("FailureReason") or 0x0110)
        for item in found.get("FailedSOPSequence") or ()
    }
    return str(found.TransactionUID), committed, failed


def _answer(status: int, comment: str) -> tuple[Dataset, None]:
    from pydicom import Dataset

    found = Dataset()
    found.Status, found.ErrorComment = status, comment
    return found, None
