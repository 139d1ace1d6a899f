"""The page of `data check`: one self-contained file; no id of a patient, no name of a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from kdistill.explain.html import asset, document, table, text
from kdistill.pipeline.data_check import SPLITS, Checked, DataCheck, Table
from kdistill.pipeline.data_check_images import SHEET_IMAGES

#: Counts that stand at the top.
TILES: Final = ("studies", "patients", "images", "images unusable", "masks", "masks unusable")
_MAX_ROWS: Final = 15
_BAR_WIDTH: Final = 90


def write_page(out_path: Path, checked: Checked) -> None:
    """Write the page of a check.

    Args:
        out_path: The HTML file; overwritten.
        checked: What was found, and the sample of images.

    Raises:
        OSError: The file cannot be written.
    """
    out_path.write_text(render_page(checked), encoding="utf-8")


def render_page(checked: Checked) -> str:
    """The whole document."""
    found = checked.found
    sections = (
        ("leaks", "Leaks", _sentences(found.leaks, "leak") or f'<p class="hint">{_no_leak(found)}</p>'),
        ("warnings", "Warnings", _sentences(found.warnings, "warning") or '<p class="hint">None.</p>'),
        ("unusable", "Images that cannot be used", _unusable_table(found)),
        ("splits", "Splits", _split_table(found)),
        ("labels", "Labels of the data set", _label_table(found)),
        ("reports", "Reports", _report_table(found)),
        ("images", "Images", _image_tables(found)),
        ("sheet", "A sample of the images", _contact_sheet(checked.sheet)),
    )
    shown = [(key, title, body) for key, title, body in sections if body]
    links = "".join(f'<a href="#{key}">{text(title)}</a>' for key, title, _ in shown)
    body = "".join(f'<section id="{key}"><h2>{text(title)}</h2>{part}</section>' for key, title, part in shown)
    style = "".join(
        asset(package, name)
        for package, name in (
            ("kdistill.explain", "page.css"),
            ("kdistill.pipeline", "report.css"),
            ("kdistill.pipeline", "data_check.css"),
        )
    )
    page = f"{_head(found)}<nav aria-label='Sections'>{links}</nav><main class='report-main'>{body}</main>"
    return document(
        title=f"kdistill: data check of {_name(found)}", style=style, script="", body=page, author="program"
    )


def _has_table(found: DataCheck) -> bool:
    """False for image files without any table: of splits and labels nothing is known then."""
    return "studies" in found.counts


def _no_leak(found: DataCheck) -> str:
    return "None was found." if _has_table(found) else "Without a table nothing is known of patients and splits."


def _name(found: DataCheck) -> str:
    return Path(found.source).name


def _head(found: DataCheck) -> str:
    if found.leaks:
        verdict = (
            f'<p class="headline bad">Not fit for training: {_number(len(found.leaks), "leak")} between splits.</p>'
        )
    else:
        verdict = (
            f'<p class="headline">{"No leak between splits was found" if _has_table(found) else "Images only"}. '
            f"{_number(len(found.warnings), 'warning')}.</p>"
        )
    tiles = "".join(
        f'<div class="tile"><strong>{found.counts[key]:,}</strong><span>{text(key)}</span></div>'
        for key in TILES
        if key in found.counts
    )
    return (
        f'<header class="head"><h1 class="run">Data check of <span class="mono">{text(_name(found))}</span></h1>'
        f'{verdict}<div class="tiles">{tiles}</div></header>'
    )


def _number(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _sentences(sentences: Sequence[str], kind: str) -> str:
    items = "".join(f"<li>{text(sentence)}</li>" for sentence in sentences)
    return f'<ul class="found {kind}">{items}</ul>' if items else ""


def _unusable_table(found: DataCheck) -> str:
    if not found.unusable:
        return ""
    rest = found.counts.get("images unusable", 0) - len(found.unusable)
    more = f'<p class="hint">And {rest:,} more.</p>' if rest > 0 else ""
    rows = [(text(place), text(reason)) for place, reason in found.unusable.items()]
    return f'<div class="wordy">{table(("Where", "Why"), rows)}</div>{more}'


def _split_table(found: DataCheck) -> str:
    rows = []
    for split in SPLITS:
        if f"split {split}" in found.counts:
            reports = found.reports.get(split, {}).get("reports", 0)
            numbers = (found.counts[f"split {split}"], found.counts[f"patients {split}"])
            images = sum(found.sizes.get(split, {}).values())
            rows.append((split, *(f"{n:,}" for n in (*numbers, images, reports))))
    others = _left_out(found)
    body = table(("Split", "Studies", "Patients", "Usable images", "With a report"), rows) if rows else ""
    if others:
        body += "<h3>Left out of the table, by reason</h3>" + table(("Reason", "Rows"), others)
    return body


def _left_out(found: DataCheck) -> list[tuple[str, str]]:
    return [
        (text(name), f"{count:,}")
        for name, count in found.counts.items()
        if name not in TILES and not name.startswith(("split ", "patients ", "view "))
    ]


def _label_table(found: DataCheck) -> str:
    if not _has_table(found):
        return ""
    if not found.totals:
        return '<p class="hint">The data set has no label columns; labels are read from the reports.</p>'
    splits = list(found.totals)
    names = list(dict.fromkeys(name for split in splits for name in found.totals[split]))
    rows = []
    for name in names:
        cells = []
        for split in splits:
            counts = found.totals[split].get(name, {"1": 0, "0": 0, "-1": 0, "null": 0})
            numbers = " / ".join(f"{counts[state]:,}" for state in ("1", "0", "-1", "null"))
            share = counts["1"] / max(sum(counts.values()), 1)
            cells.append(f'{_bar(share)} <span class="ci">{numbers}</span>')
        rows.append((text(name), *cells))
    labelled = (max(sum(counts.values()) for counts in found.totals[split].values()) for split in splits)
    header = ["Observation", *(f"{split}, {n:,} labelled studies" for split, n in zip(splits, labelled, strict=True))]
    hint = (
        '<p class="hint">The bar is the share of label 1 among labelled studies; counts are 1 (stated) / 0 (denied) / '
        "−1 (uncertain) / empty (not mentioned).</p>"
    )
    return f'{hint}<div class="wordy">{table(header, rows)}</div>'


def _bar(share: float) -> str:
    return (
        f'<svg class="share" width="{_BAR_WIDTH + 48}" height="14" role="img" aria-label="{share:.1%}">'
        f'<rect class="track" x="0" y="3" width="{_BAR_WIDTH}" height="8"/>'
        f'<rect class="fill" x="0" y="3" width="{share * _BAR_WIDTH:.1f}" height="8"/>'
        f'<text x="{_BAR_WIDTH + 6}" y="11">{share:.1%}</text></svg>'
    )


def _report_table(found: DataCheck) -> str:
    if not found.reports:
        return '<p class="hint">No study has a report.</p>' if found.totals else ""
    header = ["Split", *next(iter(found.reports.values()))]
    return table(header, [(split, *(f"{n:,}" for n in row.values())) for split, row in found.reports.items()])


def _image_tables(found: DataCheck) -> str:
    parts = [
        ("Number of studies by view", "View", found.views),
        ("Number of images by file format", "Format, bit depth", found.formats),
        ("Number of images by size", "Width x height, pixels", found.sizes),
    ]
    blocks = "".join(f"<div><h3>{title}</h3>{_cross_table(head, data)}</div>" for title, head, data in parts if data)
    return f'<div class="side-by-side">{blocks}</div>' if blocks else ""


def _cross_table(head: str, data: Table) -> str:
    """Values in rows, splits in columns; the rarest values are summed."""
    splits = list(data)
    sums: dict[str, int] = {}
    for by_value in data.values():
        for value, count in by_value.items():
            sums[value] = sums.get(value, 0) + count
    order = sorted(sums, key=lambda value: -sums[value])
    rows = [(text(value), *(f"{data[split].get(value, 0):,}" for split in splits)) for value in order[:_MAX_ROWS]]
    rest = order[_MAX_ROWS:]
    if rest:
        more = (f"{sum(data[split].get(value, 0) for value in rest):,}" for split in splits)
        rows.append((f"{len(rest)} other values", *more))
    return table((head, *splits), rows)


def _contact_sheet(sheet: dict[str, tuple[str, ...]]) -> str:
    parts = []
    for split in (*SPLITS, "all"):
        images = sheet.get(split, ())
        if images:
            pictures = "".join(
                f'<img src="{uri}" alt="{text(split)}, image {number} of {len(images)}">'
                for number, uri in enumerate(images, start=1)
            )
            parts.append(f'<h3>{text(split)}</h3><div class="contact">{pictures}</div>')
    if not parts:
        return ""
    what = f"Up to {SHEET_IMAGES} studies of each split, the first image of each"
    if "all" in sheet:
        what = f"Up to {SHEET_IMAGES} images"
    hint = (
        f'<p class="hint">{what}, drawn with a fixed seed, in their order, as the student would see them. '
        "Look for lateral views, inverted films, text, and splits that look different.</p>"
    )
    return hint + "".join(parts)
