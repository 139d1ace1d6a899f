"""CheXbert: equal to a plain forward, batched as one by one; unfit files are refused by name (FAULTS rows 30, 31)."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kdistill.artifact import StageWriter
from kdistill.errors import InputError, WeightsError
from kdistill.labelers.chexbert import ChexbertLabeler
from kdistill.labelers.chexbert_conversion import convert_chexbert
from kdistill.labelers.config import ChexbertLabelerConfig
from kdistill.labelers.labeler import RememberingLabeler, is_chexbert, labeler_id, open_labeler
from kdistill.labelers.stage import build_labels
from kdistill.observations import OBSERVATIONS, empty_labels
from kdistill.records import Study, StudyImage, write_jsonl

from .chexbert_files import CONDITIONS, VOCABULARY, plain_logits, random_state, write_official, write_vocabulary

REPORTS = [
    "Small left effusion. No pneumothorax.",
    "The heart is enlarged.",
    "No pneumonia, possible edema.",
    "Lungs are clear.\n\nNormal heart size.",
    "There is mild atelectasis and opacity in the left and right lungs with small effusion, unchanged. " * 3,
    "Normal.",
    "X-ray: mild opacities seen.",
]
#: Class of a head -> label, as the official label.py writes them.
LABEL_OF_CLASS = {0: None, 1: 1, 2: 0, 3: -1}


def convert(folder: Path, state: dict[str, torch.Tensor] | None = None, prefix: str = "module.") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    source = write_official(folder / "chexbert.pth", random_state() if state is None else state, prefix=prefix)
    convert_chexbert(source, folder / "weights", write_vocabulary(folder))
    return folder / "weights"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(tmp_path_factory.mktemp("chexbert"))


def opened(folder: Path, **settings: object) -> ChexbertLabeler:
    config = ChexbertLabelerConfig.model_validate({"checkpoint": str(folder), "device": "cpu", **settings})
    labeler = open_labeler(config)
    assert isinstance(labeler, ChexbertLabeler)
    return labeler


@pytest.fixture(scope="module")
def labeler(weights: Path) -> ChexbertLabeler:
    return opened(weights, batch_size=3)


def test_labels_equal_a_plain_forward(labeler: ChexbertLabeler) -> None:
    state, seen = random_state(), set()
    for report in REPORTS:
        words = " ".join(report.split()).lower()
        for mark in ".,:-":
            words = words.replace(mark, f" {mark} ")
        pieces = words.replace("unchanged", "un ##changed").replace("opacities", "[UNK]").split()
        ids = [VOCABULARY.index(piece) if piece in VOCABULARY else 1 for piece in ("[CLS]", *pieces, "[SEP]")]
        assert labeler.token_ids(" ".join(report.split())) == ids
        wanted = plain_logits(state, ids)
        for found, plain in zip(labeler.logits([ids]), wanted, strict=True):
            # Measured worst case 4e-6 (float32 against double); another activation or scale differs by more than 1e-2.
            assert torch.allclose(found[0].double(), plain, atol=1e-4)
        labels = labeler.label(report)
        for name, plain in zip(CONDITIONS, wanted, strict=True):
            assert labels[name] == LABEL_OF_CLASS[int(plain.argmax())]
        assert list(labels) == list(OBSERVATIONS)
        seen |= set(labels.values())
    assert seen == {1, 0, -1, None}


def test_batched_equals_one_by_one(labeler: ChexbertLabeler, weights: Path) -> None:
    one_by_one = [labeler.label(report) for report in REPORTS]
    assert len({str(labels) for labels in one_by_one}) > 3  # otherwise a mixed-up order would not show
    assert labeler.label_all(REPORTS) == one_by_one
    assert opened(weights, batch_size=100).label_all(REPORTS) == one_by_one
    ids = [labeler.token_ids(report) for report in REPORTS]
    for head, padded in enumerate(labeler.logits(ids)):
        alone = torch.cat([labeler.logits([one])[head] for one in ids])
        assert torch.allclose(padded, alone, atol=1e-4)  # measured worst case 5e-6


def test_what_cannot_be_read_has_no_labels(labeler: ChexbertLabeler) -> None:
    nothing = ["", " \n", "___ ___.", "INDICATION: Pneumonia?", "Kein Erguss und kein Pneumothorax."]
    assert labeler.label_all([nothing[0], REPORTS[0], *nothing[1:]]) == [
        empty_labels(),
        labeler.label(REPORTS[0]),
        *(empty_labels() for _ in nothing[1:]),
    ]
    assert labeler.label_all([]) == []
    with_headers = "INDICATION: Enlarged heart?\nFINDINGS: Small left effusion.\nIMPRESSION: No pneumothorax."
    assert labeler.label(with_headers) == labeler.label("Small left effusion. No pneumothorax.")


def test_long_reports_are_cut_at_512_tokens(labeler: ChexbertLabeler) -> None:
    ids = labeler.token_ids("effusion " * 900)
    assert len(ids) == 512
    assert [ids[0], ids[-1]] == [VOCABULARY.index("[CLS]"), VOCABULARY.index("[SEP]")]
    assert len(labeler.token_ids("effusion " * 510)) == 512
    assert labeler.label("effusion " * 900) == labeler.label("effusion " * 510)


def test_conversion_keeps_every_tensor(tmp_path: Path, weights: Path) -> None:
    state, plain = random_state(), convert(tmp_path / "plain", prefix="")
    positions = {"bert.embeddings.position_ids": torch.arange(512).expand(1, -1)}
    for folder in (weights, plain, convert(tmp_path / "positions", state | positions)):
        found = load_file(folder / "model.safetensors")
        assert found.keys() == state.keys()
        assert all(torch.equal(found[name], state[name]) for name in state)
        assert json.loads((folder / "config.json").read_text())["num_attention_heads"] == 2
    assert opened(plain).revision == opened(weights).revision


def test_attention_heads_come_from_the_config_beside(tmp_path: Path) -> None:
    state = random_state()
    sizes = {"num_attention_heads": 4, "vocab_size": len(VOCABULARY), "hidden_size": 128, "num_hidden_layers": 2}
    sizes |= {"intermediate_size": 48, "max_position_embeddings": 512, "type_vocab_size": 2}
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["BertModel"], **sizes}))
    labeler = opened(convert(tmp_path, state))
    ids = labeler.token_ids(REPORTS[0])
    wanted = plain_logits(state, ids, num_heads=4)
    assert all(torch.allclose(f[0].double(), p, atol=1e-4) for f, p in zip(labeler.logits([ids]), wanted, strict=True))


def broken(change: str) -> dict[str, torch.Tensor]:
    state = random_state()
    match change:
        case "missing":
            del state["linear_heads.7.bias"]
        case "unexpected":
            state["linear_heads.14.weight"] = torch.zeros(4, 128)
        case "misshapen":
            state["linear_heads.13.weight"] = torch.zeros(4, 128)
        case "nan":
            state["bert.encoder.layer.1.output.dense.bias"][3] = float("nan")
    return state


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("missing", r"linear_heads\.7\.bias' is missing"),
        ("unexpected", r"linear_heads\.14\.weight' belongs to no CheXbert"),
        ("misshapen", r"linear_heads\.13\.weight' has shape \[4, 128\], CheXbert wants \[2, 128\]"),
        ("nan", r"layer\.1\.output\.dense\.bias' holds NaN"),
    ],
)
def test_unfit_tensors_are_named(tmp_path: Path, weights: Path, change: str, words: str) -> None:
    with pytest.raises(WeightsError, match=words):
        convert(tmp_path, broken(change))
    assert not (tmp_path / "weights").exists()
    folder = tmp_path / "by_hand"  # the same in a folder that another program wrote
    folder.mkdir()
    save_file(broken(change), folder / "model.safetensors")
    for name in ("config.json", "vocab.txt"):
        (folder / name).write_bytes((weights / name).read_bytes())
    with pytest.raises(WeightsError, match=words):
        opened(folder)


class Trap:
    """Would write a file on being unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.file,)


def test_a_checkpoint_with_code_is_not_run(tmp_path: Path) -> None:
    trap = Trap(tmp_path / "sprung")
    pickle.loads(pickle.dumps(trap))
    assert trap.file.is_file()  # the trap works
    trap.file.unlink()
    torch.save({"model_state_dict": random_state(), "epoch": trap}, tmp_path / "chexbert.pth")
    with pytest.raises(WeightsError, match="objects other than tensors"):
        convert_chexbert(tmp_path / "chexbert.pth", tmp_path / "out")
    assert not trap.file.exists() and not (tmp_path / "out").exists()


def test_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    file = write_official(tmp_path / "chexbert.pth", random_state())
    whole = file.read_bytes()
    for share in (0.0, 0.3, 0.99):
        file.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(WeightsError, match="damaged"):
            convert_chexbert(file, tmp_path / "out")
    torch.save([1, 2], file)
    with pytest.raises(WeightsError, match="no dictionary of tensors"):
        convert_chexbert(file, tmp_path / "out")
    with pytest.raises(WeightsError, match="cannot be read"):
        convert_chexbert(tmp_path / "absent.pth", tmp_path / "out")


def test_the_official_file_itself_is_refused_with_the_conversion(tmp_path: Path, weights: Path) -> None:
    file = write_official(tmp_path / "chexbert.pth", random_state())
    for path in (file, tmp_path):
        with pytest.raises(WeightsError, match="kdistill convert-chexbert"):
            opened(path)
    with pytest.raises(InputError, match="not empty"):
        convert_chexbert(file, weights)


def test_vocabularies_are_checked(tmp_path: Path, weights: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((weights / name).read_bytes())
    with pytest.raises(InputError, match="there is no vocabulary"):
        opened(folder)
    words = write_vocabulary(tmp_path)
    assert opened(folder, tokenizer=str(words)).label(REPORTS[0]) == opened(weights).label(REPORTS[0])
    assert opened(folder, tokenizer=str(tmp_path)).revision == opened(weights).revision
    words.write_text("\n".join(VOCABULARY[:-1]) + "\n")
    with pytest.raises(InputError, match=f"{len(VOCABULARY) - 1} words"):
        opened(folder, tokenizer=str(words))
    words.write_text("\n".join(word for word in VOCABULARY if word != "[SEP]") + "\n")
    with pytest.raises(InputError, match=r"no line is \[SEP\]"):
        opened(folder, tokenizer=str(words))


def test_revision_changes_with_the_weights(tmp_path: Path, weights: Path) -> None:
    other = opened(convert(tmp_path, random_state(seed=1)))
    assert other.revision != opened(weights).revision
    assert is_chexbert(labeler_id(other))


def test_labels_stage_by_chexbert(tmp_path: Path, weights: Path, labeler: ChexbertLabeler) -> None:
    texts = {"s0": REPORTS[0], "s1": REPORTS[4], "s2": REPORTS[2], "s3": ""}
    studies = [
        Study(
            study_id=name,
            patient_id=name,
            split="test" if name == "s2" else "train",
            images=(StudyImage(image_path=f"{name}.png", row=0),),
            findings=text,
        )
        for name, text in texts.items()
    ]
    write_jsonl(tmp_path / "studies.jsonl", studies)
    stage = StageWriter(tmp_path / "labels")
    stage.dir.mkdir()
    build_labels(stage, ChexbertLabelerConfig(checkpoint=str(weights), device="cpu"), tmp_path)
    lines = (stage.dir / "labels.jsonl").read_text().splitlines() + (
        stage.dir / "test_labels.jsonl"
    ).read_text().splitlines()
    rows = {row["study_id"]: row["labels"] for row in map(json.loads, lines)}
    assert rows == {name: labeler.label(text) for name, text in texts.items() if text}
    said = json.loads((stage.dir / "labeler.json").read_text())
    assert said == {"name": "chexbert", "revision": labeler.revision}
    assert stage.counts["labelled"] == 3 and stage.counts["empty"] == 1


def test_remembering_reads_each_text_once(labeler: ChexbertLabeler) -> None:
    read: list[str] = []

    class Counting(ChexbertLabeler):
        def label_all(self, reports, /):  # type: ignore[no-untyped-def]
            read.extend(reports)
            return labeler.label_all(reports)

    counting = Counting(labeler._model, labeler._tokenizer, labeler.revision, batch_size=2)
    remembering = RememberingLabeler(counting)
    texts = [REPORTS[0], REPORTS[1], REPORTS[0]]
    assert remembering.label_all(texts) == labeler.label_all(texts)
    assert remembering.label(REPORTS[1]) == labeler.label(REPORTS[1])
    assert read == REPORTS[:2]
    assert labeler_id(remembering) == labeler_id(labeler)
