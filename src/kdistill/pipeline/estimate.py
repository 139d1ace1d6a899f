"""`run --dry-run`: what a recipe would do and cost, without writing anything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdistill.pipeline.recipe import Recipe
from kdistill.pipeline.stages import RunFolder, all_stages, is_reference, student_keys
from kdistill.studies.config import StudiesConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from kdistill.student.config import StudentConfig

#: Seconds on one core (measured, LOG.md); off by a factor of two on other machines.
SECONDS_PER_PHANTOM_IMAGE = 1 / 60
SECONDS_PER_IMAGE_VISIT = 0.022
#: Weights, gradients and two AdamW moments (float32).
BYTES_PER_PARAMETER = 16
#: The main process; each training process with Python, torch, kernels and activations (measured, LOG.md).
MAIN_MEMORY_GB = 0.7
PROCESS_MEMORY_GB = 1.5


def estimate(recipe: Recipe, run_dir: Path) -> dict[str, Any]:
    """Counts, parameters, memory (GB) and time (minutes) of a run; stages that stand already are named.

    Raises:
        ConfigError: A model of the recipe cannot be built.
    """
    from kdistill.artifact import MANIFEST

    studies = count_studies(recipe.studies)
    trained = [key for key in student_keys(recipe) if not is_reference(key[0])]
    visits = recipe.distillation.num_image_visits * len(trained)
    parameters = count_student_parameters(recipe)
    stages = all_stages(recipe, RunFolder(run_dir))
    rendering = sum(studies.values()) * SECONDS_PER_PHANTOM_IMAGE if recipe.studies.kind == "phantom" else 0.0
    seconds = rendering + visits * SECONDS_PER_IMAGE_VISIT / min(recipe.processes, max(len(trained), 1))
    return {
        "run": str(run_dir),
        "studies": studies,
        "students": len(student_keys(recipe)),
        "image_visits": visits,
        "student_parameters": parameters,
        "memory_gb": round(
            MAIN_MEMORY_GB + recipe.processes * (PROCESS_MEMORY_GB + parameters * BYTES_PER_PARAMETER / 1e9), 1
        ),
        "minutes": round(seconds / 60, 1),
        "stages": {stage.name: (stage.path / MANIFEST).is_file() for stage in stages},
    }


def count_studies(config: StudiesConfig) -> dict[str, int]:
    """Studies by split: planned ones of the phantom, listed ones of a data set (tables are read, not images)."""
    from collections import Counter

    from kdistill.studies.stage import read_source

    match config.kind:
        case "phantom":
            return {
                "train": config.num_train,
                "validate": config.num_validate,
                "test": config.num_test,
                "pair images": 2 * config.num_pairs,
            }
        case "combined":
            tables = [read_source(source) for source in config.sources]
        case _:
            tables = [read_source(config)]
    return dict(Counter(item.study.split for table in tables for item in table.studies))


def count_student_parameters(recipe: Recipe) -> int:
    """Parameters of the student, built without memory for its weights (the teacher's vocabulary decides its head)."""
    import torch

    from kdistill.student.build import build_model

    tokenizer = _stand_in_tokenizer(_vocabulary_size(recipe))
    with torch.device("meta"):
        model = build_model(_with_stand_in_decoder(recipe), tokenizer, teacher_model_dir=None, seed=0)
    return sum(parameter.numel() for parameter in model.parameters())


def _with_stand_in_decoder(recipe: Recipe) -> StudentConfig:
    """A decoder that starts from the teacher has the teacher's size; there is no teacher yet."""
    from kdistill.student.config import LlamaLanguageConfig, TransformersLanguageConfig

    student, teacher = recipe.student, recipe.teacher
    if student.language.kind != "teacher":
        return student
    match teacher.kind:
        case "from_scratch":
            sizes = teacher.model_dump(include={"hidden_size", "num_layers", "num_heads", "intermediate_size"})
            return student.model_copy(update={"language": LlamaLanguageConfig(**sizes)})
        case _:
            return student.model_copy(update={"language": TransformersLanguageConfig(path=teacher.model)})


def _vocabulary_size(recipe: Recipe) -> int:
    match recipe.teacher.kind:
        case "from_scratch":
            return recipe.teacher.vocab_size
        case _:
            from transformers import AutoConfig

            return int(AutoConfig.from_pretrained(recipe.teacher.model).get_text_config().vocab_size)


def _stand_in_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """As many entries as the real one will have, with the section tokens: only its size counts here."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    from kdistill.student.text import SECTION_TOKENS

    names = ["<pad>", "<bos>", "<eos>", *SECTION_TOKENS.values()]
    names += [f"token {number}" for number in range(size - len(names))]
    inner = Tokenizer(WordLevel({name: number for number, name in enumerate(names)}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")


def render_estimate(found: dict[str, Any]) -> str:
    """The estimate as text."""
    there = [name for name, done in found["stages"].items() if done]
    return "\n".join(
        [
            f"run:        {found['run']}",
            "studies:    " + ", ".join(f"{count} {name}" for name, count in found["studies"].items()),
            f"students:   {found['students']} ({found['student_parameters']:,} parameters each)",
            f"training:   {found['image_visits']:,} image visits",
            f"memory:     about {found['memory_gb']} GB",
            f"time:       about {found['minutes']} minutes on two cores, without the teacher",
            f"stages:     {len(found['stages'])}, of which there already: {', '.join(there) or 'none'}",
            "nothing was written",
        ]
    )
