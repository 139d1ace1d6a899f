"""A causal language model with its tokenizer: small from scratch, or any of transformers, checked before loading."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from kdistill.errors import EnvironmentFault, InputError, WeightsError
from kdistill.teacher.config import FromScratchTeacher, FullTeacher, LoraTeacher, TeacherConfig
from kdistill.teacher.tokenizer import add_special_tokens, load_tokenizer, train_tokenizer
from kdistill.weights import check_shapes, check_weights_dir

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LanguageModel:
    """Model and tokenizer that belong together. `name` says which teacher wrote a rationale."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    def save(self, path: Path) -> None:
        """Write weights (safetensors), config and tokenizer into a folder."""
        transformers_logging.disable_progress_bar()  # only cli/ prints
        self.model.save_pretrained(path)
        self.tokenizer.save_pretrained(path)


def create(config: TeacherConfig, texts: list[str]) -> LanguageModel:
    """Make the untrained teacher of a configuration.

    Args:
        config: The teacher's settings.
        texts: The training literature: a from-scratch teacher's tokenizer is trained on it.

    Raises:
        WeightsError: A local folder's weights are unsafe or damaged.
        InputError: The model or its tokenizer cannot be loaded.
        EnvironmentFault: `kind: lora` without peft.
    """
    match config:
        case FromScratchTeacher():
            return _from_scratch(config, texts)
        case FullTeacher():
            return load(config.model)
        case LoraTeacher():
            return _with_adapters(config)
    raise ValueError(f"unknown teacher kind: {config!r}")


def _from_scratch(config: FromScratchTeacher, texts: list[str]) -> LanguageModel:
    tokenizer = train_tokenizer(texts, config.vocab_size)
    settings = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_heads,
        max_position_embeddings=config.max_positions,
        tie_word_embeddings=True,
        # On a CPU the fused attention's backward pass costs more than plain matrix products at these sizes.
        attn_implementation=None if torch.cuda.is_available() else "eager",  # type: ignore[call-arg]
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):  # initial weights depend on the seed alone, not on what ran before
        torch.manual_seed(config.training.seed)
        model = LlamaForCausalLM(settings)
    return LanguageModel(model, tokenizer, "from_scratch")


def load(source: str) -> LanguageModel:
    """Load a causal LM by local folder or hub name, safetensors only, with our special tokens added.

    Raises:
        WeightsError: The folder's weights are unsafe, damaged, incomplete or of another model.
        InputError: No such model, or one that needs code of its own.
    """
    folder = Path(source)
    if folder.is_dir():
        check_weights_dir(folder)
    tokenizer = load_tokenizer(source)
    model = _load_weights(source, local=folder.is_dir())
    add_special_tokens(tokenizer)
    if len(tokenizer) > num_embeddings(model):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return LanguageModel(model.eval(), tokenizer, folder.name)


def num_embeddings(model: PreTrainedModel) -> int:
    """Rows of the input embeddings."""
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    return int(weight.shape[0])


def _load_weights(source: str, *, local: bool) -> PreTrainedModel:
    try:
        config = AutoConfig.from_pretrained(source, local_files_only=local)
        if local:
            _check_against_config(Path(source), config)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            config=config,
            local_files_only=local,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
        model, info = loaded
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(
            f"no causal language model could be loaded ({type(error).__name__})",
            where=source,
            remedy="Give a local folder with config.json, model.safetensors and tokenizer.json, or a hub name.",
        ) from error
    if missing := sorted(info["missing_keys"]):
        raise WeightsError(f"tensor {missing[0]!r} is missing", where=source, remedy="Copy the folder again, in full.")
    return model


def _check_against_config(folder: Path, config: object) -> None:
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config)
    check_shapes(folder, {name: tuple(tensor.shape) for name, tensor in empty.state_dict().items()})


def _with_adapters(config: LoraTeacher) -> LanguageModel:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise EnvironmentFault("kind: lora needs peft", remedy="pip install 'kdistill[llm]'") from error
    base = load(config.model)
    settings = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # a float works as well
        lora_dropout=config.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        model: Any = get_peft_model(base.model, settings)
    return LanguageModel(model, base.tokenizer, base.name)


def merged(language_model: LanguageModel) -> LanguageModel:
    """The same model with its adapters, if any, folded into its weights: a plain transformers model again."""
    if isinstance(language_model.model, PreTrainedModel):
        return LanguageModel(language_model.model.eval(), language_model.tokenizer, language_model.name)
    return LanguageModel(language_model.model.merge_and_unload().eval(), language_model.tokenizer, language_model.name)
