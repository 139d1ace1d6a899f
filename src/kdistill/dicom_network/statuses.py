"""What a sender is told about an object: a status of the storage service and a comment that is always ours.

Source: DICOM PS3.4 Table B.2-1 (C-STORE status): 0000 success, A7xx refused, out of resources, A9xx data set does not
match SOP class, Cxxx cannot understand, each with an Error Comment (0000,0902), which is LO: at most 64 characters.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pydicom import Dataset


class _Said(NamedTuple):
    status: int
    comment: str
    counted_as: str


class Answer(_Said, Enum):
    """One answer: status, comment, and the count that it raises. Nothing of an object is ever part of it."""

    ACCEPTED = 0x0000, "", "accepted"
    DUPLICATE = 0x0000, "", "duplicates"
    BUSY = 0xA700, "too many images wait; send it again later", "refused_busy"
    ENDING = 0xA700, "the receiver is ending; send it again later", "refused_busy"
    NO_DECODER = 0xA700, "images cannot be decoded now; send it again later", "refused_busy"
    OTHER_CLASS = 0xA900, "the data set names another SOP class or instance", "refused_other"
    NOT_CHEST = 0xA900, "no chest radiograph by its modality or body part", "refused_other"
    LATERAL = 0xA900, "a lateral view; only frontal ones are explained", "refused_other"
    OWN_RESULT = 0xA900, "a result of this program", "refused_other"
    UNREADABLE = 0xC000, "the image cannot be decoded", "refused_unreadable"
    NO_IDENTIFIERS = 0xC001, "no study, series or instance UID to refer to", "refused_unreadable"

    def as_status(self) -> int | Dataset:
        """The answer as pynetdicom wants it."""
        from pydicom import Dataset

        if not self.comment:
            return self.status
        answer = Dataset()
        answer.Status, answer.ErrorComment = self.status, self.comment
        return answer
