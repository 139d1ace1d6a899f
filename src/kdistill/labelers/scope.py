"""Which state each finding of one sentence has: what negations, hedges, history and predicates reach.

A sentence is a list of events (what the lexicon matched, in order). One pass reads them with a small state: the mode
that the last cue set, the findings that a trailing cue may still change, and the subjects that wait for a predicate.
Own rules; the three states and their meaning are those of Irvin et al. 2019, arXiv:1901.07031.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from kdistill.labelers import lexicon
from kdistill.labelers.lexicon import Meaning
from kdistill.observations import NO_FINDING

#: Characters between "or" and a finding beside it; further away it joins something else ("right middle or lower lobe").
_OR_REACH: Final = 28
#: Characters between a predicate and the subject after it ("enlargement of the cardiac silhouette").
_PREDICATE_REACH: Final = 40
#: Subjects that share one predicate; bounds the work on hostile text.
_MAX_SUBJECTS: Final = 8
#: How many events ahead a comma looks for the "or"/"and" that makes it part of a list. Bounds the work on long text.
_LIST_REACH: Final = 12
_LIST_ENDS: Final = frozenset({lexicon.BREAK, lexicon.SOFT_BREAK, lexicon.NEGATION})
#: Subjects that only an abnormal predicate labels: normal vessels deny no edema, normal markings no opacity.
_ONLY_ABNORMAL: Final = frozenset({("Edema",), ("Lung Opacity",)})
#: What may stand between two predicates of one subject ("normal or mildly enlarged").
_SAYS: Final = frozenset({lexicon.OR, lexicon.ENLARGED, lexicon.BORDERLINE, lexicon.NORMAL})
_LIST_JOINS: Final = frozenset({lexicon.OR, lexicon.VERSUS, lexicon.AND})

#: What a cue makes of the findings in its reach: stated, denied, hedged, or not about this image (None).
Mode = int | None


class Event(NamedTuple):
    """One match: its meaning and its character span in the text."""

    meaning: Meaning
    start: int
    end: int


class Found:
    """One finding of a sentence; `state` may still change until the sentence ends."""

    __slots__ = ("end", "kind", "observations", "start", "state")

    def __init__(self, kind: int, observations: tuple[str, ...], state: Mode, start: int, end: int) -> None:
        self.kind, self.observations, self.state, self.start, self.end = kind, observations, state, start, end


class SentenceReader:
    """Reads the events of one sentence.

    Attributes:
        found: The findings with their states, in reading order.
        normal: Whether something was called normal or clear.
    """

    def __init__(self, events: Sequence[Event]) -> None:
        self.found: list[Found] = []
        self.normal = False
        self._events = events
        self._mode: Mode = 1
        self._mode_start = -1
        self._mode_used = True  # a finding came since the cue
        self._mode_trails = False
        self._mode_lists = False
        self._separated = False  # a comma or "and" since the last cue or finding
        self._open: list[Found] = []  # what a trailing cue reaches
        self._chain: list[Found] = []  # what "or" and "versus" reach
        self._joined: tuple[int, int] | None = None  # (OR | VERSUS, its end)
        self._subjects: list[Event] = []
        self._resolved = False
        self._predicate: tuple[int, Mode, int] | None = None  # (kind, mode, end), waiting for its subject
        self._said: list[Found] = []  # what the predicate just now made of its subjects
        self._said_kind = lexicon.NEUTRAL
        self._other = False  # an "or" came right after that predicate
        for index, event in enumerate(events):
            self._read(index, event)
        self._close_hedge()

    def _read(self, index: int, event: Event) -> None:
        kind = event.meaning.kind
        if self._said and kind not in _SAYS:
            self._said, self._other = [], False
        match kind:
            case lexicon.FINDING | lexicon.OTHER:
                self._finding(event)
            case lexicon.SUBJECT:
                self._subject(event)
            case lexicon.ENLARGED | lexicon.BORDERLINE | lexicon.NORMAL | lexicon.NEUTRAL:
                self._say(event)
            case lexicon.NEGATION:
                self._set_mode(0, event)
            case lexicon.UNCERTAIN:
                self._hedge(event)
            case lexicon.NEGATION_AFTER | lexicon.UNCERTAIN_AFTER:
                self._trailing_cue(event)
            case lexicon.COMMA:
                self._comma(index)
            case lexicon.AND:
                self._chain, self._separated = [], True
            case lexicon.OR | lexicon.VERSUS:
                self._other = bool(self._said)
                self._joined = (kind, event.end) if self._chain_reaches(kind, event.start) else None
            case lexicon.BREAK | lexicon.SOFT_BREAK | lexicon.COLON:
                self._break(kind)
            case lexicon.JOIN:
                self._chain, self._joined = [], None
            case lexicon.HISTORY:
                self._set_mode(None, event)
            case lexicon.CHANGE:
                if self._mode == 0 and not self._mode_used:
                    self._mode = 1

    def _set_mode(self, mode: Mode, event: Event) -> None:
        self._mode, self._mode_start = mode, event.start
        self._mode_used, self._separated = False, False
        self._mode_trails, self._mode_lists = event.meaning.trails, event.meaning.lists
        self._chain = []  # a cue between two findings parts them: "opacity, may be atelectasis or pneumonia"

    def _hedge(self, event: Event) -> None:
        # "no findings to suggest pneumonia" stays denied; "no effusion, possible pneumonia" does not.
        if self._mode is None and not self._mode_used and not self._separated:
            return  # "history of possible pneumonia", "if concern for fracture": still not about this image
        if self._mode != 0 or self._separated or (self._mode_used and event.meaning.trails):
            self._set_mode(-1, event)

    def _close_hedge(self) -> None:
        """A hedge with nothing after it belongs to what stands before it: "pneumonia possible"."""
        if self._mode == -1 and self._mode_trails and not self._mode_used and self._open and self._open[-1].state == 1:
            self._open[-1].state = -1

    def _finding(self, event: Event) -> None:
        meaning = event.meaning
        state = self._mode
        if state == 1 and self._predicate is not None and self._predicate[0] == lexicon.BORDERLINE:
            state = -1
        found = Found(meaning.kind, meaning.observations, state, event.start, event.end)
        self.found.append(found)
        self._predicate = None
        self._mode_used, self._separated = True, False
        if NO_FINDING in meaning.observations:
            if meaning.negates:
                self._set_mode(0, event)
            return
        self._join(found)
        self._open.append(found)
        self._chain.append(found)

    def _chain_reaches(self, kind: int, start: int) -> bool:
        return bool(self._chain) and (kind == lexicon.VERSUS or start - self._chain[-1].end <= _OR_REACH)

    def _join(self, found: Found) -> None:
        """Two findings joined by "or" or "versus" are both uncertain, unless a negation covers them."""
        if self._joined is None:
            return
        kind, end = self._joined
        self._joined = None
        if kind == lexicon.VERSUS or found.start - end <= _OR_REACH:
            for other in (*self._chain[-4:], found):
                if other.state == 1:
                    other.state = -1

    def _trailing_cue(self, event: Event) -> None:
        denies = event.meaning.kind == lexicon.NEGATION_AFTER
        if denies and all(found.state == 0 for found in self._open):
            self._open = []  # also keeps a run of such cues linear
        if not self._open or not self._mode_used:
            # Nothing before it to change, or a cue right before it: "suggesting resolved pneumonia".
            self._set_mode(0 if denies else -1, event)
            return
        for found in self._open:
            if denies and found.state is not None:
                found.state = 0
            elif found.state == 1:
                found.state = -1
        self._open, self._chain = [], []
        self._mode, self._mode_used = 1, True

    def _in_list(self, index: int) -> bool:
        for event in self._events[index + 1 : index + 1 + _LIST_REACH]:
            if event.meaning.kind in _LIST_JOINS:
                return True
            if event.meaning.kind in _LIST_ENDS:
                return False
        return False

    def _comma(self, index: int) -> None:
        self._close_hedge()
        self._separated, self._predicate = True, None
        if self._in_list(index):
            return
        self._open = []
        if self._mode != 0 and not self._mode_lists:
            self._mode = 1

    def _break(self, kind: int) -> None:
        if kind == lexicon.SOFT_BREAK and self._mode_lists and self._mode == -1:
            return
        self._close_hedge()
        self._mode, self._mode_used, self._joined = 1, True, None
        self._predicate, self._chain = None, []
        if kind != lexicon.COLON:  # "pneumothorax: none"
            self._open = []
        if kind == lexicon.BREAK:
            self._subjects = []

    def _subject(self, event: Event) -> None:
        if self._predicate is not None and event.start - self._predicate[2] <= _PREDICATE_REACH:
            kind, mode, _ = self._predicate
            self._emit(event, kind, mode)
            # "normal heart and mediastinum" goes on; "enlarged heart, normal mediastinum" does not.
            self._predicate = (kind, mode, event.end) if kind == lexicon.NORMAL else None
            self._subjects = []
            return
        self._predicate = None
        if self._resolved:
            self._subjects, self._resolved = [], False
        self._subjects = [*self._subjects[-_MAX_SUBJECTS:], event]

    def _say(self, event: Event) -> None:
        """Apply a predicate to the subjects before it, or let it wait for the one after it."""
        kind = event.meaning.kind
        if kind == lexicon.NEUTRAL:
            self._resolved = bool(self._subjects)
            return
        if not self._subjects:
            if not self._differs(kind):
                self._predicate = (kind, self._mode, event.end)
            return
        # A negation before the subject was about something else: "no effusion and the heart is enlarged".
        mode = self._mode if self._mode_start > self._subjects[0].start else 1
        before = len(self.found)
        for subject in self._subjects:
            self._emit(Event(subject.meaning, min(subject.start, event.start), event.end), kind, mode)
        self._subjects, self._resolved = [], False
        self._said, self._said_kind = self.found[before:], kind

    def _differs(self, kind: int) -> bool:
        """A second predicate that contradicts the first makes both uncertain: "normal or mildly enlarged"."""
        if not self._other or lexicon.NORMAL not in (kind, self._said_kind) or kind == self._said_kind:
            return False
        for found in self._said:
            found.state = -1
        return True

    def _emit(self, event: Event, kind: int, mode: Mode) -> None:
        if mode is None:
            return
        if kind == lexicon.NORMAL:
            self.normal = True
            state = 0
        else:
            state = -1 if kind == lexicon.BORDERLINE and mode == 1 else mode
        if event.meaning.observations and not (kind == lexicon.NORMAL and event.meaning.observations in _ONLY_ABNORMAL):
            self.found.append(Found(lexicon.FINDING, event.meaning.observations, state, event.start, event.end))
