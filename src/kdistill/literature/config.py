"""Settings of the literature stage: where the articles come from and which of their passages are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from kdistill.config import ConfigModel

FieldNames = tuple[str, ...]


class JsonlFields(ConfigModel):
    """Which keys of a JSONL record hold what. A text made of several keys is joined in the order given."""

    id: str = Field(
        default="id", description="Key of the record's own id; without it the PMID, PMCID, DOI or a hash is used."
    )
    title: str = Field(default="title", description="Key of the title.")
    text: FieldNames = Field(
        default=("text",),
        min_length=1,
        description="Key or keys of the text: strings, lists of strings or of flat objects.",
    )
    pmid: str = Field(default="pmid", description="Key of the PubMed id.")
    pmcid: str = Field(default="pmcid", description="Key of the PubMed Central id.")
    doi: str = Field(default="doi", description="Key of the DOI.")
    year: str = Field(default="year", description="Key of the year of publication.")
    mesh: str = Field(default="mesh", description="Key of the list of MeSH headings.")
    license: str = Field(default="license", description="Key of the licence.")
    retracted: str = Field(default="retracted", description="Key of the retraction flag (true or false).")

    @field_validator("text", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class FilesSource(ConfigModel):
    """PubMed XML, JATS, JSONL, gzip of these, tar archives of these, or folders of any of them."""

    kind: Literal["files"] = "files"
    path: tuple[Path, ...] = Field(
        min_length=1, description="A file or folder, or a list of them (relative to the working directory)."
    )
    fields: JsonlFields = Field(default_factory=JsonlFields, description="Key names of JSONL records.")
    id_prefix: str = Field(
        default="", max_length=40, description="Put before the own ids of JSONL records, to keep sets apart."
    )
    parts: bool = Field(
        default=False,
        description="JSONL records are parts of articles (captions, cases): several may share a PMID, PMCID or DOI.",
    )
    license: str | None = Field(
        default=None, description="Licence of records that state none (the data set's own licence)."
    )
    license_allow: tuple[str, ...] | None = Field(
        default=None, description="Keep only these licences (CC BY, CC0, ...; versions are ignored); None keeps all."
    )

    @field_validator("path", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | Path) else value


class PhantomSource(ConfigModel):
    """The literature of the phantom world; the pipeline writes it and hands it over as extra articles."""

    kind: Literal["phantom"] = "phantom"
    seed: int = Field(default=0, ge=0, description="Seed of the generated articles.")
    num_articles: int = Field(default=2000, ge=1, description="Number of articles.")
    mistaught: bool = Field(
        default=False,
        description="Say of each condition what is true of another: a control for what a teacher learns.",
    )


LiteratureSource = Annotated[FilesSource | PhantomSource, Field(discriminator="kind")]


class PassageConfig(ConfigModel):
    """How articles are cut into passages."""

    max_sentences: int = Field(default=4, ge=1, description="Most sentences in a passage.")
    max_words: int = Field(
        default=90, ge=10, description="Most words in a passage; a longer single sentence is dropped."
    )
    min_words: int = Field(default=5, ge=1, description="A passage with fewer words is dropped.")


class LiteratureConfig(ConfigModel):
    """The `literature` section of a recipe."""

    sources: tuple[LiteratureSource, ...] = Field(default=(PhantomSource(),), description="Read in this order.")
    relevance_threshold: float = Field(
        default=3.0,
        ge=0.0,
        description="Least chest relevance of a passage (points; see docs/literature.md); 0 keeps all.",
    )
    passages: PassageConfig = Field(default_factory=PassageConfig, description="How articles are cut.")
    near_duplicate: float = Field(
        default=0.9,
        gt=0.0,
        le=1.0,
        description="Jaccard similarity of 5-word shingles from which a text is a near-duplicate.",
    )
    heldout_share: float = Field(
        default=0.03, ge=0.0, le=0.5, description="Share of the articles set aside to measure bits per byte (0 to 0.5)."
    )
    max_articles: int | None = Field(
        default=None, ge=1, description="Keep at most this many articles, in reading order."
    )
    evaluation_ngram: int = Field(
        default=13,
        ge=5,
        description="A passage that shares this many consecutive words with an excluded text is dropped.",
    )
    max_file_mb: int = Field(
        default=4096, ge=1, description="Most decompressed bytes of one file or archive member, MiB."
    )
    max_archive_mb: int = Field(default=262_144, ge=1, description="Most decompressed bytes of one archive, MiB.")
