"""Two grids of patches: what a fine patch sees, what context may do to it, and that nothing else changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel

from kdistill.config import config_hash
from kdistill.errors import WeightsError
from kdistill.student.coarse_fine import CoarseAndFineCnn, StagedVision
from kdistill.student.config import CnnVisionConfig, CoarseAndFinePatches, StudentConfig
from kdistill.student.locality import receptive_field
from kdistill.student.modeling import KDistillStudent, load_student
from kdistill.student.vision import position_encoding

from .backbones import EYES
from .small import CNN, pixels, small_student, text
from .test_vision import FOREIGN

FINE = {"kind": "coarse_and_fine", "fine_channels": 8, "fine_blocks": 1}
STAGED = {"kind": "coarse_and_fine"}
REPORT = text([[3, 7, 8, 4, 9, 2], [3, 10, 4, 2]], [0, 2])
#: A fine patch in the middle of a 128 px image, where no edge cuts its field.
CELL = 15


def two_grids(**changes: Any) -> KDistillStudent:
    """A student for 32 px images: 8 x 8 fine patches over 4 x 4 coarse ones."""
    return small_student(**{"patches": FINE, **changes})


def staged(name: str, **changes: Any) -> KDistillStudent:
    """One on a backbone of transformers."""
    return small_student(
        vision={"kind": "transformers", "config": FOREIGN[name].to_dict(), "trainable": True},
        patches=STAGED,
        **changes,
    )


def field_of(model: CoarseAndFineCnn, cell: int) -> slice:
    """The declared rows (or columns) of pixels that fine patch `cell` of a row or column sees."""
    return slice(4 * cell - model.reach_px, 4 * cell + model.reach_px + 1)


@torch.no_grad()
def evidence(model: KDistillStudent, images: Tensor) -> tuple[Tensor, Tensor]:
    """Evidence of every patch for every observation [B, L, P]: from local features alone, and after the gate."""
    tokens = model.queries.patches(model.vision(images))
    local = model.queries.evidence @ tokens.local.transpose(1, 2)
    return local, model.queries.gate(local, tokens.context)


@pytest.mark.parametrize("reasoning_input", ["observations", "patches", "both"])
def test_evidence_lies_on_the_fine_grid(reasoning_input: str) -> None:
    model = two_grids(reasoning_input=reasoning_input)
    output = model(pixels(), texts=[REPORT])
    assert output.log_attention.shape == (3, 14, 64) and output.logits.shape == (3, 14)
    torch.testing.assert_close(output.log_attention.exp().sum(-1), torch.ones(3, 14))
    assert model.encode(pixels()).prefix.shape[1] == {"observations": 14, "patches": 4, "both": 18}[reasoning_input]


def test_grid_of_128_px_is_32_and_its_context_that_of_the_coarse_patch_around_it() -> None:
    model = CoarseAndFineCnn(CnnVisionConfig(), CoarseAndFinePatches(kind="coarse_and_fine")).eval()
    features = model(pixels(1, 128))
    assert features.shape == (1, 64 + 128, 32, 32) and model.out_channels == 192 and model.context_channels == 128
    around = model.layers(pixels(1, 128))[:, :, 5:6, 3:4].expand(-1, -1, 2, 2)
    torch.testing.assert_close(features[:, 64:, 10:12, 6:8], around)


@pytest.mark.parametrize("fine_blocks", [0, 1, 2])
def test_a_fine_patch_sees_exactly_its_declared_field(fine_blocks: int) -> None:
    """15 + 8 per block, by gradients, and the coarse one as before (23 + 16 per block)."""
    torch.manual_seed(0)
    patches = CoarseAndFinePatches(kind="coarse_and_fine", fine_channels=8, fine_blocks=fine_blocks)
    model = CoarseAndFineCnn(CnnVisionConfig(**{**CNN, "num_blocks": 1}), patches)
    local = receptive_field(lambda images: model(images)[:, :8, CELL, CELL], 128)
    declared = field_of(model, CELL)
    assert local == (declared.start, declared.start, declared.stop - 1, declared.stop - 1)
    assert local.size_px == 15 + 8 * fine_blocks
    assert receptive_field(lambda images: model(images)[:, 8:, CELL, CELL], 128).size_px == 23 + 16


@pytest.mark.parametrize("norm", ["batch", "channel"])
@torch.no_grad()
def test_pixels_outside_its_field_change_nothing_of_what_a_fine_patch_holds(norm: str) -> None:
    """Bit for bit, however wild they are; one pixel at the field's corner changes it."""
    model = two_grids(image_size_px=128, vision={**CNN, "norm": norm})
    inside, image = field_of(model.vision, CELL), pixels(1, 128)
    other = 1e4 * pixels(1, 128, seed=2)
    other[..., inside, inside] = image[..., inside, inside]
    values = [model.queries.patches(model.vision(x)).local.view(32, 32, 16)[CELL, CELL] for x in (image, other)]
    assert torch.equal(*values)
    corner = image.clone()
    corner[..., inside.start, inside.start] += 10
    moved = model.queries.patches(model.vision(corner)).local.view(32, 32, 16)[CELL, CELL]
    assert not torch.equal(values[0], moved)


def test_evidence_hears_nothing_from_beyond_the_coarse_field_and_little_from_inside_it() -> None:
    model = two_grids(image_size_px=128)
    with torch.no_grad():
        model.queries.gate.weight.mul_(1e3)  # as loud as a gate can get
    image, number = pixels(1, 128), CELL * 32 + CELL
    reach = 11 + 8  # of the coarse patch around it, with one block
    centre = 8 * (CELL // 2)
    inside, around = field_of(model.vision, CELL), slice(centre - reach, centre + reach + 1)
    far, near = 1e4 * pixels(1, 128, seed=2), 1e4 * pixels(1, 128, seed=3)
    far[..., around, around] = image[..., around, around]
    near[..., inside, inside] = image[..., inside, inside]
    (local, before), (_, beyond), (same, after) = (evidence(model, x) for x in (image, far, near))
    assert torch.equal(before[..., number], beyond[..., number])
    assert torch.equal(local[..., number], same[..., number])
    moved = (after - before)[..., number].abs()
    assert moved.max() > 0 and (moved <= 2 * 0.5 * (local[..., number].abs() + 1)).all()


@pytest.mark.parametrize("modulation", [0.0, 0.5, 0.99])
def test_no_context_moves_evidence_past_the_bound(modulation: float) -> None:
    gate = two_grids(patches={**FINE, "modulation": modulation}).queries.gate
    generator = torch.Generator().manual_seed(0)
    local = 5 * torch.randn(2, 14, 64, generator=generator)
    context = 1e6 * torch.randn(2, 64, 16, generator=generator)
    moved = gate(local, context)
    # float32: 1 ulp of the largest evidence.
    assert ((moved - local).abs() <= modulation * (local.abs() + 1) + 2e-6).all()
    if modulation == 0:
        assert torch.equal(moved, local)
    else:
        assert ((moved - local).abs() > 0.9 * modulation * (local.abs() + 1)).any(), "the bound is reached"


def test_context_reaches_logits_through_the_weights_of_places_alone() -> None:
    """Embeddings are made from local features: with attention held equal, another context changes none."""
    model = two_grids()
    tokens = model.queries.patches(model.vision(pixels()))
    other = type(tokens)(tokens.local, torch.randn_like(tokens.context))
    first, second = model.queries(tokens), model.queries(other)
    assert not torch.allclose(first.log_attention, second.log_attention)
    deaf = two_grids(patches={**FINE, "modulation": 0.0})
    assert torch.equal(deaf.queries(tokens).embeddings, deaf.queries(other).embeddings)
    assert torch.equal(deaf.queries(tokens).logits, deaf.queries(other).logits)
    with torch.no_grad():
        model.queries.evidence_gain.zero_()  # attention no longer follows evidence
    first, second = model.queries(tokens), model.queries(other)
    assert torch.equal(first.embeddings, second.embeddings) and not torch.equal(first.logits, second.logits)


@pytest.mark.parametrize("name", ["convnext", "resnet"])
def test_staged_backbones_give_both_grids(name: str) -> None:
    model = staged(name)
    assert isinstance(model.vision, StagedVision)
    assert model(pixels()).log_attention.shape == (3, 14, 64), "8 x 8 over 4 x 4"
    local = receptive_field(lambda images: model.vision(images)[:, :8, 4, 4], 32)
    assert local.size_px < receptive_field(lambda images: model.vision(images)[:, 8:, 4, 4], 32).size_px


def test_swin_gives_both_grids() -> None:
    eye = EYES["swin"]
    model = small_student(
        vision={"kind": "transformers", "config": eye.config.to_dict(), "trainable": True},
        patches=STAGED,
        image_size_px=eye.size,
    )
    assert model(pixels(2, eye.size)).log_attention.shape == (2, 14, (2 * eye.side) ** 2)


@pytest.mark.parametrize("make", [two_grids, lambda: staged("convnext")])
def test_save_and_load_round_trip(make: Any, tmp_path: Path) -> None:
    model = make().to(memory_format=torch.channels_last)
    model.save_pretrained(tmp_path)
    for loaded in (load_student(tmp_path), AutoModel.from_pretrained(tmp_path).eval()):
        assert isinstance(loaded, KDistillStudent) and loaded.config.patches == model.config.patches
        assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())
    again = load_student(tmp_path)
    assert torch.equal(model(pixels()).logits, again(pixels()).logits)
    ids = model.generate_text(pixels(), slot="report", max_new_tokens=6)
    assert again.generate_text(pixels(), slot="report", max_new_tokens=6) == ids


def test_batched_equals_one_by_one() -> None:
    model, images = two_grids(), pixels(4)
    together = model(images)
    alone = [model(image[None]) for image in images]
    for key in ("logits", "log_attention", "embeddings"):
        torch.testing.assert_close(together[key], torch.cat([one[key] for one in alone]), rtol=0, atol=1e-5)  # 2e-6


@pytest.mark.parametrize("make", [two_grids, lambda **c: staged("convnext", **c)])
def test_every_new_parameter_gets_a_gradient(make: Any) -> None:
    old = set(dict(small_student(reasoning_input="both").named_parameters()))
    model = make(reasoning_input="both")
    output = model(pixels(), texts=[REPORT])
    (
        output.logits.square().sum() + output.log_attention[..., 0].sum() + output.text_logits[0].square().sum()
    ).backward()
    new = {name: p for name, p in model.named_parameters() if name not in old}
    assert {"queries.gate.weight", "queries.gate.bias"} < set(new)
    read = {n: p for n, p in new.items() if not n.startswith("vision.model.")}  # its unread last layers get none
    assert all(p.grad is not None and bool(p.grad.any()) for p in read.values())
    coarse = "vision.layers.6.weight" if make is two_grids else "vision.context_norm.weight"
    assert bool(dict(model.named_parameters())[coarse].grad.any()), "context is learned from the start"


def test_bf16_steps_are_finite_and_near_float32() -> None:
    model = two_grids()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(pixels(), texts=[REPORT])
    assert output.logits.dtype == torch.float32
    torch.testing.assert_close(output.logits, model(pixels()).logits, rtol=0, atol=0.1)  # 0.02 seen
    (output.logits.sum() + output.text_logits[0].float().sum()).backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


def test_forgotten_activations_give_the_same_gradients() -> None:
    gradients = []
    for forget in (False, True):
        model = staged("convnext").train()
        if forget:
            model.checkpoint_activations()
        model(pixels()).logits.square().sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


# What was there before


@torch.no_grad()
def test_a_single_grid_computes_what_it_always_did() -> None:
    """The formulas of one grid, written out again: bit for bit."""
    model = small_student()
    queries, features = model.queries, model.vision(pixels())
    tokens = queries.patch_projection(features.flatten(2).transpose(1, 2))
    code = queries.position_projection(position_encoding(4, 4, 16, tokens))
    patches = queries.patch_mlp(queries.patch_norm(tokens + code))
    keyed = queries.queries @ queries.key.weight * (0.3 * 16**-0.5)
    found = queries.evidence @ patches.transpose(1, 2)
    attention = torch.log_softmax(keyed @ patches.transpose(1, 2) + queries.evidence_gain * found, dim=-1)
    pooled = queries.pooled_norm(queries.value(attention.exp() @ patches) + queries.identity)
    embeddings = queries.out_norm(queries.mlp(pooled))
    logits = (embeddings * queries.classifier).sum(-1) + (attention.exp() * found).sum(-1) + queries.classifier_bias
    output = model(pixels())
    assert torch.equal(output.log_attention, attention) and torch.equal(output.embeddings, embeddings)
    assert torch.equal(output.logits, logits)


def test_a_single_grid_draws_the_weights_that_it_always_did() -> None:
    """Sums of main's students at commit 7cbb661, before there were two grids; a draw more would change them all."""
    sums = {"observations": (1957.7493423044625, -44.935795187950134), "both": (2248.603213617088, -65.57113480567932)}
    for reasoning_input, (weights, logits) in sums.items():
        for patches in (None, {"kind": "single"}):
            model = small_student(reasoning_input=reasoning_input, conclusions="decided", patches=patches)
            drawn = sum(value.double().abs().sum().item() for value in model.state_dict().values())
            assert drawn == pytest.approx(weights, rel=1e-9)
            assert model(pixels()).logits.double().sum().item() == pytest.approx(logits, rel=1e-5)


def test_the_default_has_the_hash_of_runs_that_were_begun_before() -> None:
    assert "patches" not in StudentConfig().model_dump()
    assert config_hash(StudentConfig()) == "78387a5cf4eb3d63f09107e0dff250a238f50b27aaf06990e341d5fecb34710f"
    fine = StudentConfig.model_validate({"patches": FINE})
    assert fine.model_dump()["patches"]["fine_blocks"] == 1 and StudentConfig.model_validate(fine.model_dump()) == fine
    assert StudentConfig.model_validate(StudentConfig().model_dump()) == StudentConfig()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"patches": {"kind": "fine"}}, "coarse_and_fine"),
        ({"patches": {**STAGED, "modulation": 1.0}}, "modulation"),
        ({"patches": {**STAGED, "fine_stage": -3}}, r"patches\.fine_stage is not read with vision\.kind cnn"),
        ({"patches": {**STAGED, "fine_stage": -1}}, "fine_stage"),
        ({"patches": STAGED, "image_size_px": 100}, "multiple of 8"),
        (
            {"patches": {**STAGED, "fine_channels": 8}, "vision": {"kind": "transformers", "path": "x"}},
            r"patches\.fine_channels is not read",
        ),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        StudentConfig.model_validate(changes)


def test_encoders_with_one_grid_are_refused_by_name() -> None:
    with pytest.raises(WeightsError, match=r"vit has grids of \[4\] patches a side"):
        staged("vit")
    with pytest.raises(WeightsError, match="do not lie in"):
        staged("convnext", image_size_px=36)  # 9 patches a side over 4
