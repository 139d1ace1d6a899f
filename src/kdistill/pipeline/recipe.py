"""A recipe: one YAML file that names everything a run does. Each section is the configuration of one package."""

from __future__ import annotations

import difflib
from pathlib import Path

from pydantic import Field, model_validator

from kdistill.audit.config import AuditConfig
from kdistill.config import ConfigModel, load_config
from kdistill.distillation.config import ARMS, DistillationConfig
from kdistill.errors import ConfigError
from kdistill.evaluation.config import EvaluationConfig
from kdistill.labelers.config import LabelerConfig, RulesLabelerConfig
from kdistill.literature.config import LiteratureConfig
from kdistill.student.config import StudentConfig
from kdistill.studies.config import StudiesConfig
from kdistill.teacher.config import RationalesConfig, TeacherConfig


class Recipe(ConfigModel):
    """Everything a run does, in the order in which it happens."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="Name of the run's folder below runs/.")
    description: str = Field(default="", description="What the run is for; shown on its report.")
    processes: int = Field(
        default=1, ge=1, le=64, description="Students trained at the same time, each in its own process."
    )
    decode_processes: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="Processes that decode or render the images of the studies stage; not said: as many as processes.",
    )
    threads: int = Field(
        default=1,
        ge=1,
        le=256,
        description="CPU threads of each process; results are equal byte for byte at equal threads.",
    )
    studies: StudiesConfig
    literature: LiteratureConfig
    labeler: LabelerConfig = RulesLabelerConfig()
    teacher: TeacherConfig
    rationales: RationalesConfig = RationalesConfig()
    student: StudentConfig = StudentConfig()
    distillation: DistillationConfig = DistillationConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    audit: AuditConfig = AuditConfig()

    @model_validator(mode="after")
    def _sizes_agree(self) -> Recipe:
        size = image_size_px(self.studies)
        if size != self.student.image_size_px:
            raise ValueError(f"studies give images of {size} px, student.image_size_px is {self.student.image_size_px}")
        return self

    @model_validator(mode="after")
    def _untrained_teacher_writes(self) -> Recipe:
        asked = [arm for arm in self.distillation.arms if ARMS[arm].teacher == "untrained"]
        if asked and self.rationales.writer == "endpoint":
            raise ValueError(
                f"{asked[0]} learns from the local teacher before its training: rationales.writer must be select or "
                "generate, a model behind an endpoint has no such state"
            )
        return self


def image_size_px(studies: StudiesConfig) -> int:
    """Side of the images of a source, in pixels."""
    match studies.kind:
        case "combined":
            return studies.sources[0].size_px
        case _:
            return studies.size_px


def recipes_dir() -> Path:
    """Where the shipped recipes are: inside the wheel, or in the source tree."""
    installed = Path(__file__).parents[1] / "recipes"
    return installed if installed.is_dir() else Path(__file__).parents[3] / "recipes"


def load_recipe(source: str, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Read a recipe by path, or a shipped one by name ("demo").

    Raises:
        ConfigError: There is none (the nearest name is suggested), or it is not valid.
    """
    path = Path(source)
    if not path.is_file():
        shipped = {p.stem: p for p in recipes_dir().glob("*.yaml")}
        if source not in shipped:
            near = difflib.get_close_matches(path.stem, shipped, n=1)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise ConfigError(
                "no such recipe", where=source, remedy=f"{hint}Shipped recipes: {', '.join(sorted(shipped))}"
            )
        path = shipped[source]
    return load_config(Recipe, path, overrides)
