"""KDistillStudent: image -> patch features -> observation queries -> prefix -> text, as a transformers model.

Importing this module registers the classes with AutoConfig and AutoModel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, AutoModelForCausalLM
from transformers import initialization as init

from kdistill.errors import WeightsError
from kdistill.student.adaptation import AdaptableModel
from kdistill.student.conclusions import Conclusions, ObservationPrefix
from kdistill.student.configuration import KDistillConfig
from kdistill.student.encoders import build_vision
from kdistill.student.language import (
    IGNORE_INDEX,
    TextBatch,
    greedy_decode,
    next_token_logits,
    packed_logits,
    packs_exactly,
)
from kdistill.student.outputs import EncodedImages, KDistillOutput, SecondLook
from kdistill.student.queries import ContextGate, ObservationOutput, ObservationQueries
from kdistill.student.sampling import Sampling, sampled_texts
from kdistill.student.vision import ChannelNorm, PatchPrefix, grid_side
from kdistill.weights import check_shapes, check_weights_dir

Slot = Literal["report", "rationale"]
Half = Literal["vision", "reasoning"]


class KDistillStudent(AdaptableModel):
    """The vision-language student (METHOD: decoupled by default, the decoder reads only observation embeddings)."""

    config: KDistillConfig
    config_class = KDistillConfig
    base_model_prefix = "kdistill"
    main_input_name = "pixel_values"
    input_modalities = "image"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: KDistillConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.vision = build_vision(config)
        fine = config.coarse_and_fine()
        self.queries = ObservationQueries(
            self.vision.out_channels - self.vision.context_channels,
            width,
            config.num_observations,
            dropout=config.dropout,
            context_channels=self.vision.context_channels,
            modulation=fine.modulation if fine is not None else 0.0,
            side_source=config.side_source,
        )
        self.language = AutoModelForCausalLM.from_config(
            config.language_config(), attn_implementation=_attention_implementation()
        )
        language_width = self.language.get_input_embeddings().embedding_dim
        reads_observations = config.reasoning_input != "patches"
        self.observation_prefix = (
            ObservationPrefix(
                width,
                language_width,
                config.num_observations,
                config.conclusions,
                tells_sides=config.side_source != "none",
            )
            if reads_observations
            else None
        )
        reads_patches = config.reasoning_input != "observations"
        self.patch_prefix = self._patch_prefix(config, language_width) if reads_patches else None
        self.semantic = nn.Linear(width, config.teacher_hidden_size) if config.teacher_hidden_size else None
        #: Score the texts of a batch packed into common rows; training asks for it (`pack_texts`).
        self.packs_texts = False
        self._still: list[nn.Module] = []
        self._still_parameters: list[nn.Parameter] = []
        self.post_init()

    def sides(self) -> dict[Half, dict[str, nn.Module]]:
        """The direct children: what sees (encoder, queries, semantic projection), and what reads it and writes."""
        seeing = ("vision", "queries", "semantic")
        children = dict(self.named_children())
        return {
            "vision": {name: child for name, child in children.items() if name in seeing},
            "reasoning": {name: child for name, child in children.items() if name not in seeing},
        }

    def hold(self, half: Half | None) -> None:
        """Train one half only: the held one gets no gradient and stays in evaluation mode (so that batch statistics and
        dropout stand still as well). None lets both go."""
        for parameter in self._still_parameters:
            parameter.requires_grad_(True)
        self._still = [] if half is None else list(self.sides()[half].values())
        self._still_parameters = [p for part in self._still for p in part.parameters() if p.requires_grad]
        for parameter in self._still_parameters:
            parameter.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> KDistillStudent:
        """See torch; a held half stays in evaluation mode."""
        super().train(mode)
        for part in self._still:
            part.eval()
        return self

    def decide_at(self, thresholds: Sequence[float]) -> None:
        """Tell the decoder an observation from this probability on, where it is told decisions; 14 thresholds."""
        if self.observation_prefix is not None and self.config.conclusions == "decided":
            self.observation_prefix.decide(thresholds)

    def pack_texts(self) -> bool:
        """Score texts packed from now on if the decoder can keep them apart; returns whether it can."""
        self.packs_texts = packs_exactly(self.language)
        return self.packs_texts

    def _patch_prefix(self, config: KDistillConfig, language_width: int) -> PatchPrefix:
        side = grid_side(self.vision, config.image_size_px)
        width, grid, context = config.hidden_size, config.pooled_patch_grid, self.vision.context_channels
        return PatchPrefix(width, language_width, side, grid, self.vision.norm, context)

    def _init_weights(self, module: nn.Module) -> None:
        """He et al. 2015 (arXiv:1502.01852) for convolutions, unit-variance linear layers, queries of unit scale."""
        match module:
            case nn.Conv2d():
                init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    init.zeros_(module.bias)
            case nn.Linear():
                init.normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    init.zeros_(module.bias)
                if isinstance(module, ObservationPrefix):
                    for told in (module.states, module.sides):
                        if told is not None:
                            init.normal_(told)  # of the scale of a projected embedding
            case nn.LayerNorm() | ChannelNorm():
                init.ones_(module.weight)
                init.zeros_(module.bias)
            case nn.BatchNorm2d():
                init.ones_(module.weight)
                init.zeros_(module.bias)
                assert module.running_mean is not None and module.running_var is not None
                assert module.num_batches_tracked is not None
                init.zeros_(module.running_mean)
                init.ones_(module.running_var)
                init.zeros_(module.num_batches_tracked)
            case ObservationQueries() | ContextGate():
                module.reset()

    def get_input_embeddings(self) -> nn.Module:
        """The decoder's token embeddings."""
        return self.language.get_input_embeddings()

    def encode(self, pixel_values: Tensor, *, observe: bool = True, stated: Conclusions | None = None) -> EncodedImages:
        """Run the vision side once, whatever number of texts will be read from it.

        Args:
            pixel_values: [B, 1, S, S], see `images.pixel_values`.
            observe: Compute the observations even where the decoder does not read them.
            stated: What training data state, told to the decoder in place of the label head's conclusions
                (under `conclusions: decided`).
        """
        patches = self.queries.patches(self.vision(pixel_values))
        observations = self.queries(patches) if observe or self.observation_prefix is not None else None
        parts = []
        if self.observation_prefix is not None:
            assert observations is not None
            embeddings = self._read(observations.embeddings)
            parts.append(self.observation_prefix.tokens(observations, embeddings, stated))
        if self.patch_prefix is not None:
            parts.append(self.patch_prefix(self._read(patches.together())))
        return EncodedImages(torch.cat(parts, dim=1), observations)

    def _read(self, features: Tensor) -> Tensor:
        """What the decoder's prefix is made from: with the text losses' gradient, or without it."""
        return features if self.config.text_gradient else features.detach()

    def forward(
        self,
        pixel_values: Tensor,
        texts: Sequence[TextBatch] = (),
        input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        observe: bool = True,
        stated: Conclusions | None = None,
        sampling: Sampling | None = None,
        second_look: SecondLook | None = None,
        **kwargs: Any,
    ) -> KDistillOutput:
        """Encode images once and score any number of text batches about them.

        Args:
            pixel_values: [B, 1, S, S].
            texts: Text batches; their logits are computed at target positions alone.
            input_ids: [B, T], one text per image in the library's own convention (right padding): gives `lm_logits`.
            labels: [B, T], equal to input_ids, -100 where ignored; shifted here. Gives `loss`.
            observe: See `encode`.
            stated: See `encode`.
            sampling: Rationales to sample behind the prefix, without gradient, and to score like the other texts.
            second_look: Images to observe before and after a change (see `look_twice`).
            **kwargs: What callers of the library's models pass along; unused.
        """
        encoded = self.encode(pixel_values, observe=observe, stated=stated)
        written = (
            sampled_texts(self.language, encoded.prefix, sampling, self.config.token_ids)
            if sampling is not None
            else None
        )
        texts = [*texts, written] if written is not None else texts
        output = KDistillOutput(text_logits=self._text_logits(encoded.prefix, texts), written=written)
        if second_look is not None:
            chosen = pixel_values[second_look.image_index]
            output.before, output.after = self.look_twice(chosen, second_look.change)
        if encoded.observations is not None:
            self._add_observations(output, encoded.observations)
        if input_ids is not None:
            output.lm_logits = next_token_logits(self.language, encoded.prefix, input_ids, None)
            if labels is not None:
                flat = output.lm_logits[:, :-1].flatten(0, 1).float()
                output.loss = functional.cross_entropy(flat, labels[:, 1:].flatten(), ignore_index=IGNORE_INDEX)
        return output

    def _add_observations(self, output: KDistillOutput, observations: ObservationOutput) -> None:
        output.embeddings, output.logits = observations.embeddings, observations.logits
        output.side_logits, output.log_attention = observations.side_logits, observations.log_attention
        if self.semantic is not None:
            projected = self.semantic(observations.embeddings).float()
            output.semantic_embeddings = functional.normalize(projected, dim=-1)

    def look_twice(
        self, pixel_values: Tensor, change: Callable[[Tensor, ObservationOutput], Tensor]
    ) -> tuple[ObservationOutput, ObservationOutput]:
        """Observe images without gradient, and with gradient after a change.

        Both as in prediction (running statistics, no dropout), whatever the mode of the model: a changed image must not
        enter the statistics of the batch, and between batch and running statistics the two looks would differ by more
        than the change.

        Args:
            pixel_values: [n, 1, S, S].
            change: See `SecondLook`.
        """
        was_training = self.vision.training, self.queries.training
        self.vision.eval()
        self.queries.eval()
        try:
            with torch.no_grad():
                before = self.queries(self.queries.patches(self.vision(pixel_values)))
                changed = change(pixel_values, before)
            after = self.queries(self.queries.patches(self.vision(changed)))
        finally:
            self.vision.train(was_training[0])
            self.queries.train(was_training[1])
        return before, after

    def _text_logits(self, prefix: Tensor, texts: Sequence[TextBatch]) -> tuple[Tensor, ...]:
        keeps = [text["next_tokens"] != IGNORE_INDEX for text in texts]
        if not self.packs_texts or not texts:
            return tuple(
                next_token_logits(self.language, prefix[text["image_index"]], text["input_ids"], keep)
                for text, keep in zip(texts, keeps, strict=True)
            )
        longest = max(keep.shape[1] for keep in keeps)
        ids = torch.cat([_widen(text["input_ids"], longest) for text in texts])
        images = torch.cat([text["image_index"] for text in texts])
        together = torch.cat([_widen(keep, longest) for keep in keeps])
        logits = packed_logits(self.language, prefix, images, ids, together)
        return logits.split([int(keep.sum()) for keep in keeps])

    @torch.no_grad()
    def generate_text(
        self,
        pixel_values: Tensor | None = None,
        *,
        prefix: Tensor | None = None,
        slot: Slot,
        max_new_tokens: int,
        batch_size: int = 256,
    ) -> list[list[int]]:
        """Write one section greedily.

        Args:
            pixel_values: [N, 1, S, S], or give
            prefix: [N, Q, H] as `encode` made it.
            slot: "report" (findings, then the impression token, then the impression) or "rationale".
            max_new_tokens: Longest text in tokens.
            batch_size: Images decoded at once.

        Returns:
            Token ids of each text, without start and end tokens.
        """
        if prefix is None:
            assert pixel_values is not None, "give pixel_values or prefix"
            prefix = torch.cat([self.encode(part).prefix for part in pixel_values.split(batch_size)])
        ids = self.config.token_ids
        return [
            text
            for part in prefix.split(batch_size)
            for text in greedy_decode(self.language, part, ids[slot], ids["eos"], max_new_tokens)
        ]

    def generate(self, pixel_values: Tensor, *, slot: Slot = "report", **kwargs: Any) -> Tensor:
        """The library's own `generate` behind the image prefix: sampling, beams, any of its options."""
        prefix = self.encode(pixel_values).prefix
        start = torch.full((prefix.shape[0], 1), self.config.token_ids[slot], device=prefix.device)
        tokens = self.get_input_embeddings()(start)
        inputs = torch.cat([prefix.to(tokens.dtype), tokens], dim=1)
        mask = torch.ones(inputs.shape[:2], dtype=torch.long, device=prefix.device)
        eos = self.config.token_ids["eos"]
        return self.language.generate(
            inputs_embeds=inputs, attention_mask=mask, eos_token_id=eos, pad_token_id=eos, **kwargs
        )

    def parts(self) -> Iterator[tuple[str, int]]:
        """Names and trainable parameter counts of the direct children."""
        for name, child in self.named_children():
            yield name, sum(p.numel() for p in child.parameters() if p.requires_grad)


def _widen(padded: Tensor, columns: int) -> Tensor:
    return functional.pad(padded, (0, columns - padded.shape[1]))


def _attention_implementation() -> str | None:
    """The library's choice on a GPU. On a CPU plain matrix products: there the fused attention's backward pass took a
    quarter of a training step (40 -> 58 images/s for `full` at 128 px)."""
    return None if torch.cuda.is_available() else "eager"


def load_student(model_dir: Path) -> KDistillStudent:
    """Load a saved student for prediction, after its weights were checked (safetensors, whole, finite, right shapes).

    Raises:
        WeightsError: See `kdistill.weights.check_weights_dir`; or config.json describes no student.
    """
    check_weights_dir(model_dir)
    try:
        config = KDistillConfig.from_pretrained(model_dir, local_files_only=True)
    except (OSError, ValueError) as error:
        raise WeightsError("config.json cannot be read", where=str(model_dir)) from error
    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in KDistillStudent(config).state_dict().items()}
    check_shapes(model_dir, expected)
    loaded: Any = KDistillStudent.from_pretrained(model_dir, local_files_only=True, output_loading_info=True)
    model, info = loaded  # a pair under output_loading_info, which the library's annotation does not know
    assert isinstance(model, KDistillStudent)
    _refuse_partial(model_dir, info)
    return model.eval().to(memory_format=torch.channels_last)


def _refuse_partial(model_dir: Path, info: dict[str, Any]) -> None:
    """The library fills what a file lacks with random numbers and says so in a log line: such a model looks alive."""
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(str(name) for name in info[problem]):
            raise WeightsError(
                f"tensor {names[0]!r} and {len(names) - 1} more: {problem.replace('_', ' ')}",
                where=str(model_dir),
                remedy="The weights belong to another version of the model: train it again.",
            )


AutoModel.register(KDistillConfig, KDistillStudent)
