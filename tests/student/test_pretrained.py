"""What is read of a vision checkpoint beside its weights: grid, extra tokens, positions, pixels; what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import (
    AutoModel,
    Dinov2WithRegistersConfig,
    DINOv3ViTConfig,
    PretrainedConfig,
    Siglip2VisionConfig,
    ViTConfig,
    ViTImageProcessor,
    ViTMAEConfig,
)

from kdistill.errors import WeightsError
from kdistill.student.images import pixel_values
from kdistill.student.modeling import KDistillStudent, load_student
from kdistill.student.pretrained import image_normalisation
from kdistill.student.vision import TransformersVision, patch_side

from .backbones import EYES, RAD_DINO, TOWER, Eye, save_eye, save_tongue, student_of
from .small import pixels


def seeing(folder: Path, size: int, **options: object) -> KDistillStudent:
    """A student whose encoder stands in a folder."""
    return student_of({"vision": {"kind": "transformers", "path": str(folder), **options}, "image_size_px": size})


@pytest.mark.parametrize("name", EYES)
@torch.no_grad()
def test_each_token_is_the_patch_at_its_place(name: str, tmp_path: Path) -> None:
    """Another corner of the image changes that corner's quarter of the grid most; in a plain transformer its token."""
    eye = EYES[name]
    save_eye(eye.config, tmp_path)
    vision = seeing(tmp_path, eye.size).vision
    image, edge = pixels(1, eye.size), eye.size // eye.side
    features = vision(image)
    assert features.shape == (1, vision.out_channels, eye.side, eye.side)
    for row, column in ((0, eye.side - 1), (eye.side - 1, 0)):
        marked = image.clone()
        marked[..., row * edge : (row + 1) * edge, column * edge : (column + 1) * edge] *= -1
        change = (vision(marked) - features).square().sum(1)
        quarters = functional.adaptive_avg_pool2d(change, 2).flatten()
        assert int(quarters.argmax()) == (1 if column else 2)
        if patch_side(vision.model.config, eye.size) is not None:
            assert int(change.argmax()) == row * eye.side + column


@pytest.mark.parametrize("name", ["dinov2_with_registers", "dinov3_vit"])
@torch.no_grad()
def test_the_number_of_extra_tokens_is_known_not_guessed(name: str, tmp_path: Path) -> None:
    """Four patches after a class token and four registers are nine tokens: the largest square would be 3 x 3."""
    kind = {"dinov2_with_registers": Dinov2WithRegistersConfig, "dinov3_vit": DINOv3ViTConfig}[name]
    config = kind(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8)
    config.num_register_tokens = 4
    own = save_eye(config, tmp_path)
    vision = seeing(tmp_path, 16).vision
    tokens = own(pixel_values=pixels(1, 16).expand(-1, 3, -1, -1)).last_hidden_state
    assert tokens.shape[1] == 9
    torch.testing.assert_close(vision(pixels(1, 16)).flatten(2).transpose(1, 2), tokens[:, 5:], rtol=0, atol=1e-5)


@torch.no_grad()
def test_rad_dino_reads_37_by_37_patches_and_smaller_images_too(tmp_path: Path) -> None:
    save_eye(RAD_DINO, tmp_path)
    model = seeing(tmp_path, 518)
    assert model.vision(pixels(1, 518)).shape[-2:] == (37, 37)
    assert model(pixels(1, 518)).log_attention.shape[-1] == 37 * 37
    assert seeing(tmp_path, 224).vision(pixels(1, 224)).shape[-2:] == (16, 16)


@pytest.mark.parametrize("name", ["vit", "siglip"])
@torch.no_grad()
def test_position_encodings_are_interpolated_to_the_students_size(name: str, tmp_path: Path) -> None:
    """Bicubic, as the models themselves do it: equal to a checkpoint whose table was resized by hand."""
    eye = EYES[name]
    own = save_eye(eye.config, tmp_path)
    own = own.vision_model if name == "siglip" else own
    resized = AutoModel.from_config(type(own.config)(**{**own.config.to_dict(), "image_size": eye.size})).eval()
    weights = own.state_dict()
    key = next(name for name in weights if "position_embedding" in name)
    table = weights[key].view(1, -1, 24)
    extra = table.shape[1] - 16
    grid = table[:, extra:].transpose(1, 2).unflatten(2, (4, 4))
    grown = functional.interpolate(grid, size=(6, 6), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    weights[key] = torch.cat([table[:, :extra], grown], dim=1).view(resized.state_dict()[key].shape)
    resized.load_state_dict(weights)
    expected = TransformersVision(resized)(pixels(1, eye.size))
    torch.testing.assert_close(seeing(tmp_path, eye.size).vision(pixels(1, eye.size)), expected, rtol=0, atol=1e-5)


PROCESSORS = {
    "channels": {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
    "another_range": {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 127.5},
    "not_rescaled": {"image_mean": [123.0] * 3, "image_std": [58.0] * 3, "do_rescale": False},
    "not_normalised": {"do_normalize": False},
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_the_encoder_gets_what_the_checkpoints_own_processor_makes(name: str, tmp_path: Path) -> None:
    eye = EYES["vit"]
    save_eye(eye.config, tmp_path)
    processor = ViTImageProcessor(do_resize=False, **PROCESSORS[name])
    processor.save_pretrained(tmp_path)
    model = seeing(tmp_path, eye.size)
    image = np.random.default_rng(0).integers(0, 256, (1, eye.size, eye.size), dtype=np.uint8)
    expected = processor(np.repeat(image[..., None], 3, axis=-1)[0], return_tensors="pt")["pixel_values"]
    model.save_pretrained(tmp_path / "student")
    for student in (model, load_student(tmp_path / "student")):  # serving does the same: it is in config.json
        torch.testing.assert_close(shown(student, image), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def shown(model: KDistillStudent, image: np.ndarray) -> torch.Tensor:
    """What the encoder itself receives of an image."""
    seen: list[torch.Tensor] = []
    hook = model.vision.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True
    )
    model(pixel_values(image, model.config))
    hook.remove()
    return seen[0].contiguous()


def test_the_recipes_normalisation_stays_where_there_is_no_file_or_where_it_is_asked_for(tmp_path: Path) -> None:
    eye = EYES["vit"]
    save_eye(eye.config, tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (1, eye.size, eye.size), dtype=np.uint8)
    expected = pixel_values(image, seeing(tmp_path, eye.size).config).expand(-1, 3, -1, -1)
    assert torch.equal(shown(seeing(tmp_path, eye.size), image), expected)
    ViTImageProcessor(**PROCESSORS["channels"]).save_pretrained(tmp_path)
    assert torch.equal(shown(seeing(tmp_path, eye.size, normalisation="recipe"), image), expected)
    assert not torch.equal(shown(seeing(tmp_path, eye.size), image), expected)


def test_preprocessing_nested_in_a_processors_file_is_found(tmp_path: Path) -> None:
    settings = {"image_processor": {"image_mean": 0.4, "image_std": [0.2]}}
    (tmp_path / "processor_config.json").write_text(json.dumps(settings))
    assert image_normalisation(str(tmp_path), 3) == ([0.4] * 3, [0.2] * 3)


@pytest.mark.parametrize(
    "text",
    ["{", "{}", '{"image_mean": [0.5, 0.5], "image_std": [0.5, 0.5]}', '{"image_mean": 0.5, "image_std": 0.0}'],
)
def test_unusable_preprocessing_is_refused_and_the_way_round_it_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(WeightsError, match="normalisation: recipe"):
        image_normalisation(str(tmp_path), 3)


def refused(config: PretrainedConfig, folder: Path, size: int, match: str) -> None:
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    with pytest.raises(WeightsError, match=match):
        seeing(folder, size)


def test_naflex_is_refused_with_the_checkpoints_to_take_instead(tmp_path: Path) -> None:
    refused(
        Siglip2VisionConfig(**TOWER, num_patches=16, patch_size=8), tmp_path, 32, "spatial_shapes[^$]*model_type siglip"
    )


def test_an_encoder_that_drops_patches_is_refused(tmp_path: Path) -> None:
    refused(ViTMAEConfig(**TOWER, image_size=32, patch_size=8), tmp_path, 32, r"4 x 4 patches: they are no grid")


def test_a_size_that_the_encoder_cannot_read_is_refused_with_its_own(tmp_path: Path) -> None:
    config = ViTConfig(**TOWER, image_size=40, patch_size=20)
    refused(config, tmp_path, 16, "cannot read images of 16 px[^$]*size is 40")


def test_a_checkpoint_with_missing_weights_is_refused_and_an_unread_pooler_is_not(tmp_path: Path) -> None:
    """The library would fill the gap with random numbers and say so in a log line."""
    eye: Eye = EYES["vit"]
    save_eye(eye.config, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    without = {key: value for key, value in tensors.items() if not key.startswith("pooler")}
    assert len(without) < len(tensors)
    save_file(without, tmp_path / "model.safetensors", {"format": "pt"})
    seeing(tmp_path, eye.size)
    lost = next(key for key in without if "output.dense.weight" in key)
    save_file({k: v for k, v in without.items() if k != lost}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=r"'layers\.0\..*missing"):
        seeing(tmp_path, eye.size)


def test_a_folder_without_a_configuration_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match="no model could be loaded"):
        seeing(tmp_path, 32)


def test_a_dry_run_counts_parameters_without_loading_weights(tmp_path: Path) -> None:
    save_eye(EYES["dinov2"].config, tmp_path / "eye")
    save_tongue("qwen3", tmp_path / "tongue")
    settings = {
        "vision": {"kind": "transformers", "path": str(tmp_path / "eye"), "lora": {"rank": 2}},
        "language": {"kind": "transformers", "path": str(tmp_path / "tongue"), "trainable": False},
        "image_size_px": 56,
    }
    counted = []
    for device in ("cpu", "meta"):
        with torch.device(device):
            model = student_of(settings)
        assert model.device.type == device
        counted.append(dict(model.parts()))
    assert counted[0] == counted[1]
