"""Vision encoders: grids, locality, independence of the batch, foreign models."""

from __future__ import annotations

import pytest
import torch
from transformers import ConvNextConfig, Dinov2Config, ResNetConfig, SiglipVisionConfig, ViTConfig

from kdistill.student.config import CnnVisionConfig
from kdistill.student.vision import SmallCnn, position_encoding, tokens_to_grid

from .small import pixels, small_student

TOWER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
FOREIGN = {
    "vit": ViTConfig(**TOWER, image_size=32, patch_size=8),
    "dinov2": Dinov2Config(**{k: v for k, v in TOWER.items() if k != "intermediate_size"}, image_size=32, patch_size=8),
    "siglip": SiglipVisionConfig(**TOWER, image_size=32, patch_size=8),
    "convnext": ConvNextConfig(num_stages=2, hidden_sizes=[8, 16], depths=[1, 1], image_size=32, patch_size=4),
    "resnet": ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
        num_channels=3,
        downsample_in_first_stage=False,
    ),
}


@pytest.mark.parametrize("name", sorted(FOREIGN))
def test_any_transformers_vision_model_feeds_the_queries(name: str) -> None:
    settings = {"kind": "transformers", "config": FOREIGN[name].to_dict(), "trainable": True}
    output = small_student(vision=settings)(pixels())
    assert output.logits.shape == (3, 14)
    assert output.log_attention.shape[-1] == 16, "a 4 x 4 grid, without class or register tokens"


def test_frozen_encoder_has_no_trainable_weight() -> None:
    settings = {"kind": "transformers", "config": FOREIGN["vit"].to_dict(), "trainable": False}
    assert not any(p.requires_grad for p in small_student(vision=settings).vision.parameters())


@pytest.mark.parametrize("num_blocks", [0, 1, 2])
def test_a_patch_sees_only_its_neighbourhood(num_blocks: int) -> None:
    """The documented receptive field (23 + 16 per block), measured by gradients."""
    torch.manual_seed(0)
    model = SmallCnn(
        CnnVisionConfig(stem_channels=8, middle_channels=8, channels=8, num_blocks=num_blocks, norm="channel")
    )
    image = pixels(1, 128).requires_grad_()
    (model(image)[0, :, 8, 8] * torch.randn(8)).sum().backward()
    assert image.grad is not None
    seen = image.grad[0, 0].abs().sum(0).nonzero().flatten()
    assert int(seen.max() - seen.min()) + 1 <= 23 + 16 * num_blocks
    assert int(seen.max() - seen.min()) + 1 > 16 * num_blocks


def test_features_do_not_depend_on_the_rest_of_the_batch() -> None:
    model, images = SmallCnn(CnnVisionConfig(norm="channel")), pixels(4, 64)
    torch.testing.assert_close(model(images)[1:2], model(images[1:2]), rtol=0, atol=1e-5)  # 1e-6 seen


def test_grid_of_128_px_is_16() -> None:
    assert SmallCnn(CnnVisionConfig())(pixels(1, 128)).shape == (1, 128, 16, 16)


@pytest.mark.parametrize("extra", [0, 1, 5])
def test_extra_tokens_are_dropped_from_the_front(extra: int) -> None:
    tokens = torch.arange(extra + 16.0).reshape(1, -1, 1)
    assert tokens_to_grid(tokens).flatten().tolist() == list(range(extra, extra + 16))


def test_positions_differ_and_do_not_depend_on_the_grid() -> None:
    code = position_encoding(4, 4, 16, torch.zeros(1))
    assert torch.cdist(code, code)[~torch.eye(16, dtype=torch.bool)].min() > 0.1
    fine = position_encoding(12, 12, 16, torch.zeros(1))
    torch.testing.assert_close(fine.view(12, 12, 16)[1, 4], code.view(4, 4, 16)[0, 1])  # both at (1/8, 3/8)
