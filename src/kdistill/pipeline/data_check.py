"""`data check`: what a user should know of a data set before training on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from pydantic import Field

from kdistill.config import ConfigModel, parse_yaml, validate
from kdistill.errors import InputError, LeakageError
from kdistill.pipeline.data_check_images import ImageFacts, duplicate_findings, image_warnings, read_images
from kdistill.pipeline.data_check_labels import Totals, label_warnings, shift_warnings, totals
from kdistill.pipeline.data_check_masks import MaskFacts, mask_warnings, read_masks
from kdistill.pipeline.data_check_places import lines_of_shared_patients, places_of
from kdistill.pipeline.data_check_reports import report_lengths, report_warnings
from kdistill.pipeline.recipe import load_recipe
from kdistill.records import Record
from kdistill.studies.config import FileSource, FolderStudies, OpeniStudies, StudiesConfig, VinDrCxrStudies
from kdistill.studies.layouts import looks_like, loose_images
from kdistill.studies.sources.common import SourceStudy, SourceTable, refuse_empty
from kdistill.studies.sources.read import read_source

SPLITS: Final = ("train", "validate", "test")
#: Of a long list of places or files this many are shown.
MAX_SHOWN: Final = 50
#: The kind of a folder or archive of images without any table.
IMAGES_ONLY: Final = "images"

Table = dict[str, dict[str, int]]
OnProgress = Callable[[int, int], None] | None


class DataCheck(Record):
    """What was found. `leaks` make the check fail; `warnings` are for the user to judge."""

    source: str
    counts: dict[str, int]
    leaks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    unusable: dict[str, str] = Field(default={}, description="Where it stands -> why it cannot be used (at most 50).")
    totals: Totals = Field(default={}, description="split -> observation -> studies labelled 1, 0, -1 and null.")
    views: Table = Field(default={}, description="split -> view -> studies.")
    formats: Table = Field(default={}, description="split -> file format and bit depth -> images.")
    sizes: Table = Field(default={}, description="split -> width x height -> images.")
    reports: Table = Field(default={}, description="split -> reports, and the words of a short, middle and long one.")

    def lines(self) -> list[str]:
        """The findings as text, one a line."""
        shown = [f"{count:>7}  {name}" for name, count in self.counts.items()]
        shown += [f"warning: {text}" for text in self.warnings]
        shown += [f"unusable: {name}: {reason}" for name, reason in self.unusable.items()]
        return [f"data: {self.source}", *shown, *[f"LEAK: {text}" for text in self.leaks]]


class _OneSource(ConfigModel):
    source: FileSource


class _OnlyStudies(ConfigModel):
    studies: StudiesConfig


class Checked(Record):
    """A check and what its page shows besides: images [S, S] as PNG data URIs by split."""

    found: DataCheck
    sheet: dict[str, tuple[str, ...]] = Field(default={}, description="split -> PNG data URIs.")


def check_data(
    source: str, *, kind: str = "folder", images: bool = True, shown_as: str = "", on_progress: OnProgress = None
) -> Checked:
    """Check a folder, or the studies section of a recipe.

    Args:
        source: A folder, a recipe (path or name), or a YAML file with nothing but a `studies` section.
        kind: Layout of a folder: a kind of `kdistill.studies.config`, or "images" for images without a table.
        images: Also read every image; without it only the tables are checked.
        shown_as: What to call the source (default: as given).
        on_progress: Called with (done, total) images.

    Raises:
        InputError: The table is wrong (all problems with line numbers), or there is nothing to check.
    """
    name = shown_as or source
    if not Path(source).is_dir():
        return _check(name, _sources_of_recipe(source), images, on_progress)
    if kind == IMAGES_ONLY:
        return _check_loose(name, Path(source), on_progress)
    if kind == "folder" and not (Path(source) / "studies.csv").is_file():
        raise looks_like(Path(source), name)
    return _check(name, [_source(kind, source)], images, on_progress)


def _source(kind: str, path: str) -> FileSource:
    return validate(_OneSource, {"source": {"kind": kind, "path": path}}, where="--kind").source


def _sources_of_recipe(source: str) -> list[FileSource]:
    config = _studies_section(source)
    match config.kind:
        case "phantom":
            raise InputError(
                "its studies are rendered, not read: there is no data set to check",
                where=source,
                remedy="Write one with `kdistill phantom render --out DIR` and check DIR.",
            )
        case "combined":
            return list(config.sources)
        case _:
            return [config]


def _studies_section(source: str) -> StudiesConfig:
    """The studies of a whole recipe, or of a YAML file that has no other section yet."""
    path = Path(source)
    if path.is_file() and path.suffix.lower() in (".yaml", ".yml"):
        data = parse_yaml(path.read_text(encoding="utf-8", errors="replace"), where=path.name)
        if isinstance(data, dict) and list(data) == ["studies"]:
            return validate(_OnlyStudies, data, where=path.name).studies
    return load_recipe(source).studies


def _check(name: str, sources: list[FileSource], images: bool, on_progress: OnProgress) -> Checked:
    tables = []
    for source in sources:
        try:
            tables.append(read_source(source))
        except LeakageError as error:
            return Checked(found=_shared_patients_only(name, source, error))
        refuse_empty(tables[-1], source.path)
    items = [item for table in tables for item in table.studies]
    places = places_of(list(zip(sources, tables, strict=True)))
    chest = [source.require_chest for source, table in zip(sources, tables, strict=True) for _ in table.studies]
    facts = read_images(items, places, on_progress, require_chest=chest) if images else ImageFacts()
    masks = read_masks(items, places) if images else MaskFacts()
    labels = totals([item.study for item in items])
    near = duplicate_findings(facts)
    smallest = max((source.size_px for source in sources), default=0)
    stops = [_stop_warning(facts, source, table) for source, table in zip(sources, tables, strict=True)]
    found = DataCheck(
        source=name,
        counts=_counts(tables, items, facts) | masks.counts,
        leaks=_at_most([*_patient_leaks(items, places), *near.leaks]),
        warnings=(
            *_unnamed_patients(sources),
            *_twice_warnings(items),
            *_split_warnings(items),
            *report_warnings(items, places),
            *label_warnings(items, places, labels),
            *shift_warnings(labels),
            *near.warnings,
            *image_warnings(facts, smallest),
            *mask_warnings(masks),
            *(text for text in stops if text),
        ),
        unusable=dict(list(facts.unusable.items())[:MAX_SHOWN]),
        totals=labels,
        views=_by_split((item.study.split, item.study.view_position or "unknown") for item in items),
        formats=_by_split(facts.formats),
        sizes=_by_split(facts.sizes),
        reports=report_lengths(items),
    )
    return Checked(found=found, sheet=facts.sheet)


def _unnamed_patients(sources: list[FileSource]) -> list[str]:
    """Data sets that do not say who is who: that no patient stands in two splits is then not known."""
    found = []
    for source in sources:
        match source:
            case OpeniStudies():
                what = "report"
            case VinDrCxrStudies():
                what = "image"
            case _:
                continue
        found.append(
            f"{source.kind} names no patients: every {what} is taken for a patient of its own, so one patient in two "
            "splits cannot be seen"
        )
    return found


def _twice_warnings(items: list[SourceStudy]) -> list[str]:
    twice = len(items) - len({item.study.study_id for item in items})
    return [f"{twice} study_ids stand for more than one study: a run refuses them"] if twice else []


def _check_loose(name: str, folder: Path, on_progress: OnProgress) -> Checked:
    """Images without a table: what can be said of the files alone."""
    items = loose_images(folder)
    places = {str(item.images[0].path): f"file {number}" for number, item in enumerate(items, start=1)}
    facts = read_images(items, places, on_progress)
    near = duplicate_findings(facts)
    found = DataCheck(
        source=name,
        counts={"images": facts.count, "images unusable": len(facts.unusable_places)},
        warnings=(
            "no table: patients, splits, labels and reports are not known, so leaks cannot be looked for",
            *near.warnings,
            *image_warnings(facts, 0),
        ),
        unusable=dict(list(facts.unusable.items())[:MAX_SHOWN]),
        formats=_by_split(("all", text) for _, text in facts.formats),
        sizes=_by_split(("all", text) for _, text in facts.sizes),
    )
    return Checked(found=found, sheet={"all": facts.sheet.get("train", ())})


def _counts(tables: list[SourceTable], items: list[SourceStudy], facts: ImageFacts) -> dict[str, int]:
    counts: Counter[str] = Counter(studies=len(items), patients=len({item.study.patient_id for item in items}))
    counts.update(reason for table in tables for _, reason in table.left_out)
    for table in tables:
        counts.update(table.counts)
    for split in SPLITS:
        here = [item.study for item in items if item.study.split == split]
        counts[f"split {split}"] = len(here)
        counts[f"patients {split}"] = len({study.patient_id for study in here})
    counts.update(f"view {item.study.view_position or 'unknown'}" for item in items)
    counts["images"] = facts.count
    counts["images unusable"] = len(facts.unusable_places)
    return dict(counts)


def _by_split(pairs: Iterable[tuple[str, str]]) -> Table:
    """split -> value -> how often; the most frequent first, splits in their order."""
    counted = Counter(pairs)
    splits = dict.fromkeys([*SPLITS, *(split for split, _ in counted)])
    return {
        split: here
        for split in splits
        if (here := {value: n for (found, value), n in counted.most_common() if found == split})
    }


def _at_most(leaks: list[str]) -> tuple[str, ...]:
    more = len(leaks) - MAX_SHOWN
    return (*leaks[:MAX_SHOWN], *([f"and {more} more"] if more > 0 else []))


def _shared_patients_only(name: str, source: FileSource, error: LeakageError) -> DataCheck:
    """A table that is refused for its splits is not read further: the images can wait until it is mended."""
    lines = lines_of_shared_patients(Path(source.path)) if isinstance(source, FolderStudies) else []
    return DataCheck(
        source=name,
        counts={},
        leaks=_at_most([error.what, *lines]),
        warnings=("the images, labels and reports were not looked at: mend the splits first",),
    )


def _patient_leaks(items: list[SourceStudy], places: dict[str, str]) -> list[str]:
    first: dict[str, SourceStudy] = {}
    leaks: dict[str, str] = {}
    for item in items:
        known = first.setdefault(item.study.patient_id, item)
        if known.study.split != item.study.split:
            leaks.setdefault(
                item.study.patient_id,
                f"one patient stands in two splits: {_place(known, places)} ({known.study.split}) and "
                f"{_place(item, places)} ({item.study.split})",
            )
    return list(leaks.values())


def _place(item: SourceStudy, places: dict[str, str]) -> str:
    return places[str(item.images[0].path)] if item.images else "a study without an image"


def _split_warnings(items: list[SourceStudy]) -> list[str]:
    patients = {split: {i.study.patient_id for i in items if i.study.split == split} for split in SPLITS}
    found = [f"split {split} is empty" for split in SPLITS if not patients[split]]
    if 0 < len(patients["test"]) < 30:
        found.append(f"the test split has {len(patients['test'])} patients: intervals of its scores will be very wide")
    return found


def _stop_warning(facts: ImageFacts, source: FileSource, table: SourceTable) -> str:
    """Whether a run would stop over this source (see max_rejected_share)."""
    lost = sum(all(str(image.path) in facts.unusable_paths for image in item.images) for item in table.studies)
    if not table.studies or lost <= source.max_rejected_share * len(table.studies):
        return ""
    return (
        f"a run would stop: {lost} of {len(table.studies)} studies of {Path(source.path).name} have no usable image, "
        f"more than max_rejected_share ({source.max_rejected_share:.0%})"
    )
