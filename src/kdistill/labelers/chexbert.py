"""CheXbert: BERT and 14 linear heads on its first token (Smit et al. 2020, arXiv:2004.09167), from safetensors only.

Order of the heads, meaning of the classes, cleaning of the text and truncation follow the official code in
github.com/stanfordmlgroup/CheXbert (src/constants.py, src/bert_tokenizer.py, src/models/bert_labeler.py, src/label.py).
Two deviations, both for reports that the official program is not meant for: of a report with headers only findings and
impression are read, and a report without a word, or not in English, gets no labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file
from tokenizers.implementations import BertWordPieceTokenizer
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from kdistill.errors import EnvironmentFault, InputError, WeightsError
from kdistill.labelers.chexbert_folder import BertSizes, check_folder, files_of, hash_files, read_sizes
from kdistill.labelers.config import ChexbertLabelerConfig
from kdistill.labelers.language import is_english, is_placeholder_only
from kdistill.observations import NO_FINDING, NUM_OBSERVATIONS, Labels, LabelState, empty_labels
from kdistill.sections import section_spans

#: The observation of each head (CONDITIONS in the official src/constants.py); not the order of `OBSERVATIONS`.
HEADS: Final = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
    "No Finding",
)
#: Class -> label (CLASS_MAPPING there: blank, positive, negative, uncertain). "No Finding" has the first two only.
CLASSES: Final[tuple[LabelState, ...]] = (None, 1, 0, -1)
#: Tokens, [CLS] and [SEP] among them; the rest of a report is cut off.
MAX_TOKENS: Final = 512
PAD_ID: Final = 0
_SPECIAL_TOKENS: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class ChexbertModel(nn.Module):
    """BERT and 14 heads, with the official names of all tensors ("bert. ...", "linear_heads.0.weight")."""

    def __init__(self, sizes: BertSizes) -> None:
        super().__init__()
        self.bert = BertModel(BertConfig(**sizes.model_dump(exclude={"model_type"})))
        self.linear_heads = nn.ModuleList(
            nn.Linear(sizes.hidden_size, 2 if name == NO_FINDING else len(CLASSES)) for name in HEADS
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> list[Tensor]:
        """Return the logits of each head, [B, 4] (the last [B, 2]), for token ids and mask [B, T]."""
        first = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state[:, 0]
        return [head(first) for head in self.linear_heads]


def empty_model(sizes: BertSizes) -> ChexbertModel:
    """Return the architecture without memory behind its tensors: their names and shapes, ready for `assign`."""
    with torch.device("meta"):
        return ChexbertModel(sizes)


def check_tensors(found: dict[str, Tensor], model: nn.Module, where: str) -> None:
    """Compare tensors with what the architecture wants.

    Raises:
        WeightsError: A tensor is missing, does not belong there, or has another shape; it is named.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if missing := sorted(wanted.keys() - found.keys()):
        raise WeightsError(f"tensor {missing[0]!r} is missing ({len(missing)} of {len(wanted)})", where=where)
    if extra := sorted(found.keys() - wanted.keys()):
        raise WeightsError(f"tensor {extra[0]!r} belongs to no CheXbert ({len(extra)} such)", where=where)
    for name, shape in wanted.items():
        if tuple(found[name].shape) != shape:
            raise WeightsError(
                f"tensor {name!r} has shape {list(found[name].shape)}, CheXbert wants {list(shape)}", where=where
            )


class ChexbertLabeler:
    """Labels by a CheXbert checkpoint.

    Attributes:
        name: What scores and artifacts call it.
        revision: Hash of the weights, the sizes and the vocabulary.
    """

    name = "chexbert"

    def __init__(
        self, model: ChexbertModel, tokenizer: BertWordPieceTokenizer, revision: str, *, batch_size: int
    ) -> None:
        self.revision = revision
        self._model = model.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._batch_size = batch_size
        self._max_tokens = min(MAX_TOKENS, model.bert.config.max_position_embeddings)

    @classmethod
    def open(cls, config: ChexbertLabelerConfig) -> ChexbertLabeler:
        """Load a converted checkpoint; every file is checked before a library opens it.

        Raises:
            WeightsError: Weights are missing, pickled (the conversion is named), damaged or of another architecture.
            InputError: config.json or vocab.txt is missing or does not fit.
            EnvironmentFault: CUDA is asked for and there is none.
        """
        device, files = choose_device(config.device), files_of(config)
        weights, sizes_file, vocabulary = files
        check_folder(weights.parent)
        sizes = read_sizes(sizes_file)
        tokenizer = read_tokenizer(vocabulary, sizes.vocab_size)
        model, tensors = empty_model(sizes), load_file(weights)
        check_tensors(tensors, model, str(weights))
        model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
        _fill_buffers(model)
        return cls(model.to(device), tokenizer, hash_files(files), batch_size=config.batch_size)

    def label(self, report: str, /) -> Labels:
        """Return the labels of one report."""
        return self.label_all([report])[0]

    def label_all(self, reports: Sequence[str], /) -> list[Labels]:
        """Return the labels of each report, in order; batches are made of reports of like length."""
        texts = [evidence(report) for report in reports]
        result = [empty_labels() for _ in reports]
        for row, classes in self._classes([(row, text) for row, text in enumerate(texts) if text]):
            for name, number in zip(HEADS, classes, strict=True):
                result[row][name] = CLASSES[number]
        return result

    def _classes(self, texts: Sequence[tuple[int, str]]) -> Iterator[tuple[int, list[int]]]:
        """The class of each head, for each (row, text)."""
        ids = [(row, self.token_ids(text)) for row, text in texts]
        ids.sort(key=lambda item: len(item[1]))
        for start in range(0, len(ids), self._batch_size):
            batch = ids[start : start + self._batch_size]
            logits = self.logits([tokens for _, tokens in batch])
            classes = torch.stack([head.argmax(dim=1) for head in logits], dim=1).tolist()
            yield from zip((row for row, _ in batch), classes, strict=True)

    def token_ids(self, text: str) -> list[int]:
        """Return [CLS], the word pieces, [SEP]; at most 512, the last one is [SEP]."""
        tokens: list[int] = self._tokenizer.encode(text).ids
        return tokens if len(tokens) <= self._max_tokens else [*tokens[: self._max_tokens - 1], tokens[-1]]

    @torch.inference_mode()
    def logits(self, token_ids: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return the logits of each head, [B, 4] (the last [B, 2]), for token sequences of any lengths, padded here."""
        device = next(self._model.parameters()).device
        longest = max(map(len, token_ids))
        input_ids = torch.full((len(token_ids), longest), PAD_ID, dtype=torch.long)
        attention_mask = torch.zeros_like(input_ids)
        for row, tokens in enumerate(token_ids):
            input_ids[row, : len(tokens)] = torch.tensor(tokens)
            attention_mask[row, : len(tokens)] = 1
        logits: list[Tensor] = self._model(input_ids.to(device), attention_mask.to(device))
        return logits


assert len(HEADS) == NUM_OBSERVATIONS


def evidence(report: str) -> str:
    r"""Return what CheXbert reads of a report: findings and impression on one line; "" where nothing can be read.

    >>> evidence("INDICATION: cough.\nFINDINGS: No\n effusion."), evidence("___ ___"), evidence("Kein Erguss und so.")
    ('No effusion.', '', '')
    """
    spans = [span for span in section_spans(report) if span.name in ("findings", "impression")]
    text = " ".join(" ".join(report[span.start : span.end] for span in spans).split())
    return text if text and not is_placeholder_only(text) and is_english(text.lower()) else ""


def choose_device(wanted: str) -> torch.device:
    """Return the device; "auto" takes CUDA where there is any."""
    found = torch.cuda.is_available()
    if wanted == "cuda" and not found:
        raise EnvironmentFault("no CUDA device was found", where="labeler.device", remedy="Use auto or cpu.")
    return torch.device("cuda" if found and wanted != "cpu" else "cpu")


def read_tokenizer(file: Path, vocab_size: int) -> BertWordPieceTokenizer:
    """Read BERT's vocab.txt (one word piece a line) as the lower-casing tokenizer of bert-base-uncased.

    Raises:
        InputError: Not UTF-8, a special token is missing, or there are more or fewer words than the model has.
    """
    try:
        words = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")  # splitlines knows too many ends
    except UnicodeDecodeError as error:
        raise InputError("is no UTF-8", where=str(file)) from error
    vocabulary = {word: number for number, word in enumerate(words)}
    if missing := [token for token in _SPECIAL_TOKENS if token not in vocabulary]:
        raise InputError(f"no line is {missing[0]}", where=str(file), remedy="Give BERT's own vocab.txt.")
    if len(words) != vocab_size or vocabulary["[PAD]"] != PAD_ID:
        raise InputError(
            f"{len(words)} words with [PAD] as number {vocabulary['[PAD]']}; the weights want {vocab_size} and 0",
            where=str(file),
            remedy="Give the vocab.txt with which the checkpoint was trained (bert-base-uncased).",
        )
    return BertWordPieceTokenizer(vocabulary, lowercase=True)


def _fill_buffers(model: ChexbertModel) -> None:
    """Positions and token types are buffers that no file holds: they were made on the meta device."""
    embeddings = model.bert.embeddings
    positions = torch.arange(model.bert.config.max_position_embeddings).expand((1, -1))
    embeddings.register_buffer("position_ids", positions, persistent=False)
    embeddings.register_buffer("token_type_ids", torch.zeros_like(positions), persistent=False)
