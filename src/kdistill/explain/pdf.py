"""Explanation -> PDF, the page for a reader on paper: film and bars, then report, reasons and checks."""

from __future__ import annotations

import io
import textwrap
import threading
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kdistill.explain.dicom_sr import shown_finding
from kdistill.explain.explanation import Explanation, ObservationReading
from kdistill.explain.page import WORDS
from kdistill.explain.pictures import blended
from kdistill.explain.sides import SIDES_IN_DOUBT

#: A4 in inches; margins in shares of the page.
_PAGE: Final = (8.27, 11.69)
_LEFT, _RIGHT = 0.08, 0.92
_LINE: Final = 0.0165
_CHARS: Final = 104
#: matplotlib's settings belong to the whole process.
_SETTINGS: Final = threading.Lock()
_COLOURS: Final = {"present": "#b45f06", "uncertain": "#7a6a00", "absent": "#5a6670"}


def explanation_pdf(explanation: Explanation, image: NDArray[np.uint8]) -> bytes:
    """Render an explanation.

    Args:
        explanation: What the model says.
        image: uint8 [S, S], the film as pages show it.

    Returns:
        The bytes of a PDF, equal for equal arguments; every page carries the notice.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_pdf import PdfPages

    buffer = io.BytesIO()
    dates = {"CreationDate": None, "ModDate": None}
    title = {"Title": f"Explanation of {explanation.study_id}", **dates}
    # Type 42 keeps letters letters: they can be searched, copied and read aloud.
    with _SETTINGS, rc_context({"pdf.fonttype": 42}), PdfPages(buffer, metadata=title) as pages:
        writer = _Writer(pages, explanation)
        writer.film(image)
        for size, weight, line in _lines(explanation):
            writer.line(line, size=size, weight=weight)
        writer.end()
    return buffer.getvalue()


class _Writer:
    """Puts lines on pages, a new one when the foot is reached."""

    def __init__(self, pages: Any, explanation: Explanation) -> None:
        self._pages, self._explanation = pages, explanation
        self._begin()

    def _begin(self) -> None:
        from matplotlib.figure import Figure

        self._page = Figure(figsize=_PAGE)
        notice = "\n".join(textwrap.wrap(_plain(self._explanation.notice), 110))
        self._page.text(0.5, 0.965, notice, ha="center", va="top", size=8, weight="bold", color="#8a4b00")
        foot = f"{self._explanation.model} · image SHA-256 {self._explanation.image_sha256[:16]}…"
        self._page.text(_LEFT, 0.03, _plain(foot), size=7, color="#5a6670")
        self._y = 0.925

    def line(self, words: str, *, size: float, weight: str) -> None:
        """One line of text."""
        if self._y < 0.06:
            self.end()
            self._begin()
        self._page.text(_LEFT, self._y, words, size=size, weight=weight, va="top", parse_math=False)
        self._y -= _LINE * size / 9

    def film(self, image: NDArray[np.uint8]) -> None:
        """The film, beside it the film with the evidence of the most probable present finding, and the 14 bars."""
        shown = shown_finding(self._explanation)
        doubtful = self._explanation.is_side_doubtful
        pictures = [(image, "Film (sides not certain)" if doubtful else "Film (the patient's right on the left)")]
        if shown is not None and shown.evidence_map is not None:
            pictures.append((blended(image, np.array(shown.evidence_map)), f"Where the model looked for {shown.name}"))
        for number, (pixels, title) in enumerate(pictures):
            axes = self._page.add_axes((_LEFT + 0.265 * number, 0.71, 0.25, 0.19))
            axes.imshow(pixels, cmap="gray", vmin=0, vmax=255)
            axes.set_title(title, size=7, loc="left")
            axes.axis("off")
        if not self._explanation.abstained:
            self._bars()
        self._y = 0.675

    def _bars(self) -> None:
        axes = self._page.add_axes((0.76, 0.71, 0.095, 0.19))
        for row, item in enumerate(self._explanation.observations):
            _bar(axes, row, item)
        axes.set(xlim=(0, 1), ylim=(len(self._explanation.observations) - 0.5, -0.5), xticks=[], yticks=[])
        axes.axis("off")

    def end(self) -> None:
        """Close the page."""
        self._pages.savefig(self._page)


def _bar(axes: Any, row: int, item: ObservationReading) -> None:
    colour = _COLOURS[item.state]
    axes.text(-0.05, row, item.name, size=6, ha="right", va="center", color=colour)
    if item.probability is None or item.threshold is None:
        return
    axes.barh(row, 1, height=0.5, color="#e6e9ec")
    axes.barh(row, item.probability, height=0.5, color=colour)
    axes.plot([item.threshold] * 2, [row - 0.4, row + 0.4], color="black", linewidth=0.8)
    axes.text(1.05, row, f"{item.probability:.2f} {WORDS[item.state]}", size=6, va="center", color=colour)


def _lines(explanation: Explanation) -> Iterator[tuple[float, str, str]]:
    """(size, weight, text) of every line below the pictures."""
    yield 11, "bold", _plain(f"Study {explanation.study_id}")
    if explanation.abstained:
        yield from _paragraph("No answer: the model abstained. What follows are the reasons, not findings.", "bold")
    else:
        if explanation.is_side_doubtful:
            yield from _paragraph(SIDES_IN_DOUBT, "bold")
        for title, body in (("Findings", explanation.findings), ("Impression", explanation.impression)):
            yield 9, "bold", title
            yield from _paragraph(body or "(none written)")
        for flag in explanation.flags:
            if flag.sentences:
                yield from _paragraph(f"Contradiction on {flag.observation}: {flag.text}", "bold")
        yield 9, "bold", "Rationale (the model's own words; it can be wrong)"
        for sentence in explanation.rationale:
            yield from _paragraph(f"• {sentence.text}")
            for source in sentence.citations:
                where = f"PMID {source.pmid}" if source.pmid else source.article_id
                yield from _paragraph(
                    f"    {source.title} ({source.year or 'no year'}), {where}: “{source.quote}”", size=7
                )
    if explanation.flags:
        yield 9, "bold", "Checks that object"
        for flag in explanation.flags:
            yield from _paragraph(f"• {flag.code}: {flag.text}")


def _paragraph(words: str, weight: str = "normal", *, size: float = 8.5) -> Iterator[tuple[float, str, str]]:
    for line in textwrap.wrap(_plain(words), int(_CHARS * 8.5 / size)) or [""]:
        yield size, weight, line


def _plain(words: str) -> str:
    """Nothing that a renderer could take for anything but letters."""
    return "".join(c if c.isprintable() else "\ufffd" for c in words)
