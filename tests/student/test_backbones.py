"""Students on checkpoints of real architectures: built from disk, saved, loaded, decoded, differentiated."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModel, PreTrainedModel

from kdistill.student.conclusions import Conclusions
from kdistill.student.modeling import KDistillStudent, load_student

from .backbones import EYES, TONGUES, loss_of, save_eye, save_tongue, student_of, texts_of
from .small import pixels


@pytest.fixture(scope="module", params=[*EYES, *TONGUES])
def built(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, PreTrainedModel, KDistillStudent]:
    """A name, the checkpoint's own model, and a student built from its folder."""
    name = request.param
    folder = tmp_path_factory.mktemp(name)
    part = {"kind": "transformers", "path": str(folder)}
    if name in EYES:
        own = save_eye(EYES[name].config, folder)
        return name, own, student_of({"vision": part, "image_size_px": EYES[name].size})
    own = save_tongue(name, folder)
    return name, own, student_of({"language": part})


@pytest.fixture
def images(built: tuple) -> torch.Tensor:
    return pixels(2, built[2].config.image_size_px)


@torch.no_grad()
def test_weights_are_the_checkpoints_and_survive_saving(built: tuple, images: torch.Tensor, tmp_path: Path) -> None:
    """Exactly: same weights, same memory format, same arithmetic."""
    name, own, model = built
    assert_holds(model, name, own)
    model.save_pretrained(tmp_path)
    loaded = load_student(tmp_path)
    before, after = (m(images, texts=[texts_of(m)]) for m in (model, loaded))
    assert torch.equal(before.logits, after.logits) and torch.equal(before.text_logits[0], after.text_logits[0])
    again = AutoModel.from_pretrained(tmp_path).eval()(images, texts=[texts_of(model)])
    torch.testing.assert_close(again.logits, before.logits, rtol=0, atol=1e-4)  # another memory format
    assert float(before.text_logits[0].std()) > 0.1, "a checkpoint that says nothing would pass as well"
    if name not in EYES:
        tied = model.language.get_output_embeddings().weight is model.get_input_embeddings().weight
        kept = loaded.language.get_output_embeddings().weight is loaded.get_input_embeddings().weight
        assert tied == kept == own.config.tie_word_embeddings


def assert_holds(model: KDistillStudent, name: str, own: PreTrainedModel) -> None:
    """Every tensor of the checkpoint is in the student; token tables grew by our tokens alone."""
    if name in EYES:
        own = own.vision_model if name == "siglip" else own
        inside = model.vision.model.state_dict()
    else:
        inside = model.language.state_dict()
        assert model.get_input_embeddings().weight.shape[0] == own.config.vocab_size + 4, "three sections and padding"
    for key, value in own.state_dict().items():
        assert torch.equal(inside[key][: len(value)] if value.ndim else inside[key], value), key


@torch.no_grad()
def test_bfloat16_autocast_is_finite_and_near(built: tuple, images: torch.Tensor) -> None:
    """Root mean square of the difference, in standard deviations of the logits (seen: up to 0.06).

    Conclusions are given: a decision that rounding tips over is another text, not a near one.
    """
    model = built[2]
    stated = Conclusions(torch.ones(len(images), 14), torch.full((len(images), 14), -1))
    exact = model(images, texts=[texts_of(model)], stated=stated)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        near = model(images, texts=[texts_of(model)], stated=stated)
    for one, other in ((near.logits, exact.logits), (near.text_logits[0].float(), exact.text_logits[0])):
        difference = (one - other).square().mean().sqrt() / other.std()
        assert one.isfinite().all() and difference < 0.1


def test_checkpointed_activations_give_the_same_gradients_and_keep_less(built: tuple, images: torch.Tensor) -> None:
    """Bit for bit: the same operations once more (DINOv3 and GPT-2 draw random numbers, which are drawn again)."""
    model = built[2].train()
    first, expected, kept = backward(model, images)
    model.checkpoint_activations()
    second, gradients, kept_less = backward(model, images)
    model._set_gradient_checkpointing(enable=False)
    model.eval()
    assert torch.equal(first, second) and expected.keys() == gradients.keys() and kept_less < kept
    assert all(torch.equal(expected[name], gradients[name]) for name in expected)
    for part in ("vision.", "language."):
        assert any(bool(gradient.any()) for name, gradient in expected.items() if name.startswith(part))


def backward(model: KDistillStudent, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor], int]:
    """Loss, gradients, and how many numbers the forward pass kept for them."""
    kept: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    torch.manual_seed(5)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = loss_of(model, images)
    loss.backward()
    gradients = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    return loss.detach(), gradients, sum(kept)


@pytest.mark.parametrize("built", TONGUES, indirect=True)
@torch.no_grad()
def test_cached_decoding_equals_one_by_one_equals_the_librarys_generate(built: tuple) -> None:
    model = with_an_end(built[2])
    images, eos = pixels(6), model.config.token_ids["eos"]
    together = model.generate_text(images, slot="report", max_new_tokens=16)
    alone = [model.generate_text(image[None], slot="report", max_new_tokens=16)[0] for image in images]
    theirs = model.generate(images, slot="report", max_new_tokens=16, do_sample=False).tolist()
    assert together == alone == [row[: row.index(eos)] if eos in row else row for row in theirs]
    assert together[0] == uncached(model, images[:1], 16)
    assert len({len(text) for text in together}) > 1, "some texts must end early, or leaving the batch is not tried"


def with_an_end(model: KDistillStudent) -> KDistillStudent:
    """Declare a token to be the end that the untrained decoder writes in some texts and not in others."""
    texts = model.generate_text(pixels(6), slot="report", max_new_tokens=16)
    written = sorted({token for text in texts for token in text})
    mixed = max(written, key=lambda token: sum(token in text for text in texts) % len(texts))
    model.config.token_ids = {**model.config.token_ids, "eos": mixed}
    return model


def uncached(model: KDistillStudent, image: torch.Tensor, limit: int) -> list[int]:
    """Greedy decoding that computes the whole text again for every token."""
    ids = [model.config.token_ids["report"]]
    while len(ids) <= limit:
        following = int(model(image, input_ids=torch.tensor([ids])).lm_logits[0, -1].argmax())
        if following == model.config.token_ids["eos"]:
            break
        ids.append(following)
    return ids[1:]
