"""What of a pretrained part is trained: all of it, nothing, or low-rank adapters beside frozen weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import partial
from os import PathLike
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from kdistill.errors import ConfigError, EnvironmentFault
from kdistill.student.config import LoraConfig
from kdistill.student.configuration import KDistillConfig
from kdistill.student.vision import SmallCnn, TransformersVision


class AdaptableModel(PreTrainedModel):
    """An encoder and a decoder that can be frozen, adapted, merged, and made to forget activations.

    Attributes:
        has_adapters: Adapters stand beside frozen weights.
        partly_trained: Names of parameters of which only some rows are trained: weight decay would move the others.
    """

    config: KDistillConfig
    vision: SmallCnn | TransformersVision
    language: Any  # a causal LM of the library: its mixins carry no types
    supports_gradient_checkpointing = True
    has_adapters: bool = False
    partly_trained: frozenset[str] = frozenset()

    def add_adapters(self, part: Literal["vision", "language"], settings: LoraConfig) -> None:
        """Freeze the encoder or the decoder and train adapters in it; the decoder also learns its section tokens."""
        if part == "vision":
            assert isinstance(self.vision, TransformersVision), "the small encoder has no pretrained weights to adapt"
            add_adapters(self.vision.model, settings, "student.vision.lora")
        else:
            add_adapters(self.language, settings, "student.language.lora")
            self._learn_section_tokens()
        self.has_adapters = True

    def freeze_language(self) -> None:
        """Train nothing of the decoder but the rows of the tokens that start and end a section."""
        self.language.requires_grad_(False)
        self._learn_section_tokens()

    def _learn_section_tokens(self) -> None:
        tables = learn_rows(self.language, self.config.token_ids.values())
        learned = {id(table) for table in tables}
        self.partly_trained = frozenset(name for name, value in self.named_parameters() if id(value) in learned)

    def merge_adapters(self) -> None:
        """Fold adapters into the weights, in place; from then on this is a student like any other."""
        if self.has_adapters:
            merge_adapters(self)
            self.has_adapters = False

    def save_pretrained(  # type: ignore[override]  # the library's other arguments go through
        self, save_directory: str | PathLike[str], *, state_dict: dict[str, Tensor] | None = None, **kwargs: Any
    ) -> None:
        """The library's, with adapters merged into what is written (the model in memory keeps them).

        With `state_dict` exactly that is written, as a checkpoint of an unfinished training needs it. Tensors have the
        names that they have in memory: the library would give those of ViT and its kin the names of older versions,
        which `from_pretrained` translates back and `Trainer` does not: it would resume with an untrained encoder.
        """
        if self.has_adapters and state_dict is None:
            merged = copy.deepcopy(self)
            merged.merge_adapters()
            merged.save_pretrained(save_directory, **kwargs)
        else:
            super().save_pretrained(save_directory, state_dict=state_dict, save_original_format=False, **kwargs)

    def checkpoint_activations(self) -> None:
        """Keep no activation inside the layers of encoder and decoder: they are computed again for the backward pass.

        The public switch is called otherwise in each of the library's versions that this package runs on.
        """
        self._set_gradient_checkpointing(gradient_checkpointing_func=partial(checkpoint, use_reentrant=False))


def add_adapters(part: PreTrainedModel, settings: LoraConfig, where: str) -> None:
    """Freeze a model and put adapters beside its layers, in place: h = W x + (alpha / rank) B A x, B = 0 at first.

    Args:
        part: Encoder or decoder.
        settings: Rank, scale and layers.
        where: The configuration key, for errors.

    Raises:
        ConfigError: `target_modules` means no layer, or one that cannot have an adapter.
        EnvironmentFault: peft is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise EnvironmentFault("adapters need peft", where=where, remedy="pip install 'kdistill[llm]'") from error
    targets = settings.target_modules
    chosen = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # a float works as well
        lora_dropout=settings.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in part.modules()),  # GPT-2's transposed layers
    )
    try:
        peft.inject_adapter_in_model(chosen, part)
    except ValueError as error:
        raise ConfigError(
            f"{part.config.model_type} cannot have these adapters ({str(error).splitlines()[0]})",
            where=f"{where}.target_modules",
            remedy="Name layers of this model; a convolutional encoder has no linear ones: [convolution] for ResNet.",
        ) from error


def merge_adapters(module: nn.Module) -> None:
    """Fold every adapter into the weights beside it, in place: plain layers again, W + (alpha / rank) B A."""
    from peft.tuners.lora import LoraLayer

    adapted = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, LoraLayer)]
    for name, layer in adapted:
        merging: Any = layer
        merging.merge(safe_merge=True)
        module.set_submodule(name, merging.get_base_layer())


def learn_rows(language: PreTrainedModel, rows: Iterable[int]) -> list[nn.Parameter]:
    """Train these rows of a frozen decoder's token tables, and no other: tokens that it may never have met.

    The other rows get a gradient of zero; no weight decay may reach the tables.

    Returns:
        The tables: one where input and output embeddings are tied, else two.
    """
    learned = torch.tensor(sorted(set(rows)))
    tables: list[nn.Parameter] = []
    for table in (language.get_input_embeddings(), language.get_output_embeddings()):
        weight = table.weight
        assert isinstance(weight, nn.Parameter)
        if all(weight is not other for other in tables):
            weight.requires_grad_(True)
            weight.register_hook(lambda gradient: _only(gradient, learned))
            tables.append(weight)
    return tables


def _only(gradient: Tensor, rows: Tensor) -> Tensor:
    kept = torch.zeros_like(gradient)
    kept[rows] = gradient[rows]
    return kept
