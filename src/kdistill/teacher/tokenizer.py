"""The teacher's tokenizer: its own byte-level BPE, or the one of a foreign model with our special tokens added."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from kdistill.errors import InputError

PAD: Final = "<pad>"
BOS: Final = "<bos>"
EOS: Final = "<eos>"
REPORT: Final = "<report>"
IMPRESSION: Final = "<impression>"
RATIONALE: Final = "<rationale>"
#: Row order is a contract: the student starts from the same vocabulary.
SPECIAL_TOKENS: Final = (PAD, BOS, EOS, REPORT, IMPRESSION, RATIONALE)
#: The tokens that start a section of the student's output.
SECTION_TOKENS: Final = (REPORT, IMPRESSION, RATIONALE)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE (Sennrich et al. 2016, arXiv:1508.07909, on bytes: no text is out of its vocabulary).

    Digits are split, so that measurements do not fill the vocabulary.

    Args:
        texts: The corpus.
        vocab_size: Entries, the six special tokens and 256 bytes included.

    Returns:
        A tokenizer that adds no special token by itself.

    Raises:
        InputError: The corpus is empty.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    corpus = [text for text in texts if text.strip()]
    if not corpus:
        raise InputError("the literature holds no text to train a tokenizer on", remedy="Add sources to the recipe.")
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        extra_special_tokens=list(SECTION_TOKENS),
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer by local folder (never asking the network then) or hub name.

    Raises:
        InputError: There is no tokenizer, or it needs code of its own.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=Path(source).is_dir())
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"no tokenizer could be loaded ({type(error).__name__})",
            where=source,
            remedy="Give a folder that holds tokenizer.json, as save_pretrained writes it.",
        ) from error
    return tokenizer


def add_special_tokens(tokenizer: PreTrainedTokenizerBase) -> int:
    """Add what a foreign tokenizer lacks of our special tokens; its own pad, bos and eos stay as they are.

    Returns:
        How many tokens were added: the model's embeddings grow by as many.
    """
    missing = {name: token for name, token in _roles().items() if getattr(tokenizer, name) is None}
    added = tokenizer.add_special_tokens({**missing}) if missing else 0
    known = tokenizer.get_vocab()
    sections = [token for token in SECTION_TOKENS if token not in known]
    if sections:
        added += tokenizer.add_special_tokens({"extra_special_tokens": sections}, replace_extra_special_tokens=False)
    return added


def _roles() -> dict[str, str]:
    return {"pad_token": PAD, "bos_token": BOS, "eos_token": EOS}
