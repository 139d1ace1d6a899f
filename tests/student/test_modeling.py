"""The student as a transformers model: shapes, decoupling, one vision pass, round trips, refusals."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import AutoConfig, AutoModel

from kdistill.errors import WeightsError
from kdistill.observations import OBSERVATIONS
from kdistill.sites import SITES
from kdistill.student.conclusions import Conclusions
from kdistill.student.modeling import KDistillStudent, load_student
from kdistill.student.vision import PatchPrefix

from .small import CNN, IDS, VOCABULARY, pixels, small_student, text

REPORT = text([[3, 7, 8, 4, 9, 2], [3, 10, 4, 2]], [0, 2])
RATIONALE = text([[5, 11, 12, 13, 14, 2]], [1])


def test_output_shapes() -> None:
    output = small_student()(pixels(), texts=[REPORT, RATIONALE])
    assert output.embeddings.shape == (3, 14, 16)
    assert output.logits.shape == (3, 14) and output.side_logits.shape == (3, 14, 3)
    assert output.log_attention.shape == (3, 14, 16)
    assert [tuple(t.shape) for t in output.text_logits] == [(8, VOCABULARY), (5, VOCABULARY)]
    torch.testing.assert_close(output.log_attention.exp().sum(-1), torch.ones(3, 14))
    torch.testing.assert_close(output.semantic_embeddings.norm(dim=-1), torch.ones(3, 14))


def test_several_texts_share_one_vision_pass() -> None:
    model, passes = small_student(), []
    model.vision.register_forward_hook(lambda *_: passes.append(1))
    model(pixels(), texts=[REPORT, RATIONALE])
    assert len(passes) == 1


def test_chunks_of_texts_give_the_same_logits_as_one_padded_batch() -> None:
    model = small_student()
    together = text([[3, 7, 8, 4, 9, 2], [3, 10, 4, 2], [5, 11, 12, 13, 14, 2]], [0, 2, 1])
    apart = torch.cat(model(pixels(), texts=[REPORT, RATIONALE]).text_logits)
    torch.testing.assert_close(model(pixels(), texts=[together]).text_logits[0], apart, rtol=0, atol=1e-5)  # 5e-7 seen


def test_text_is_about_the_image_that_image_index_names() -> None:
    model = small_student()
    moved = {**REPORT, "image_index": torch.tensor([1, 2])}
    first, second = (model(pixels(), texts=[t]).text_logits[0] for t in (REPORT, moved))
    assert not torch.allclose(first[:5], second[:5])
    torch.testing.assert_close(first[5:], second[5:])


@pytest.mark.parametrize("reasoning_input", ["observations", "patches", "both"])
def test_decoder_sees_the_image_only_through_what_it_may_read(reasoning_input: str) -> None:
    """With the embeddings held fixed, another image must change nothing (observations) or something (patches)."""
    model = small_student(reasoning_input=reasoning_input)
    fixed = model.encode(pixels(1)).observations
    if fixed is None:
        fixed = model.queries(model.queries.patches(model.vision(pixels(1))))
    model.queries.forward = lambda patches: replace(fixed)
    first, second = (model(pixels(1, seed=s), texts=[text([[3, 7, 2]], [0])]).text_logits[0] for s in (5, 6))
    assert torch.equal(first, second) == (reasoning_input == "observations")


@pytest.mark.parametrize("reasoning_input", ["observations", "patches", "both"])
@pytest.mark.parametrize("text_gradient", [True, False])
def test_text_losses_train_the_vision_side_only_where_they_may(reasoning_input: str, text_gradient: bool) -> None:
    model = small_student(reasoning_input=reasoning_input, text_gradient=text_gradient, conclusions="soft")
    model(pixels(), texts=[REPORT]).text_logits[0].square().sum().backward()
    moved = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
    prefixes = {"observations": {"observation_prefix"}, "patches": {"patch_prefix"}}
    read = prefixes.get(reasoning_input, {"observation_prefix", "patch_prefix"})
    assert moved == read | {"language"} | ({"vision", "queries"} if text_gradient else set())


def test_soft_conclusions_say_the_logit_and_do_not_bend_it() -> None:
    model = small_student(conclusions="soft")
    found = model.encode(pixels())
    assert found.observations is not None and model.observation_prefix.states is not None
    said = found.prefix - model.observation_prefix(found.observations.embeddings)
    expected = torch.tanh(found.observations.logits / 2)[..., None] * model.observation_prefix.states
    torch.testing.assert_close(said, expected)
    found.prefix.sum().backward()
    assert model.queries.classifier.grad is None, "no gradient through the logit"
    added = set(dict(model.named_parameters())) - set(dict(small_student().named_parameters()))
    assert added == {"observation_prefix.states"}


@torch.no_grad()
def test_decided_conclusions_follow_thresholds_and_the_heads_side() -> None:
    model = small_student(conclusions="decided")
    seen = model.encode(pixels()).observations
    assert seen is not None
    middle = torch.sigmoid(seen.logits).flatten().sort().values[20:22]
    cut = float(middle.mean())  # between two of 42: rounding decides nothing
    model.decide_at([cut] * 14)
    states, sides = model.observation_prefix.states, model.observation_prefix.sides
    said = model.encode(pixels()).prefix - model.observation_prefix(seen.embeddings)
    for image in range(3):
        for number, name in enumerate(OBSERVATIONS):
            present = float(torch.sigmoid(seen.logits[image, number])) >= cut
            expected = states[number] if present else -states[number]
            if present and SITES[name].lateralised:
                expected = expected + sides[int(seen.side_logits[image, number].argmax())]
            torch.testing.assert_close(said[image, number], expected)


@torch.no_grad()
def test_a_finding_that_is_never_likely_is_told_at_its_own_threshold() -> None:
    """A rare finding may have its threshold below one in a million: head and decoder decide alike there as well."""
    model = small_student(conclusions="decided")
    model.queries.classifier_bias.fill_(-18.0)
    seen = model.encode(pixels()).observations
    assert seen is not None
    cut = float(torch.sigmoid(seen.logits.double()).flatten().sort().values[20:22].mean())
    assert cut < 1e-6
    model.decide_at([cut] * 14)
    present = seen.logits >= model.observation_prefix.decision_logits
    assert torch.equal(present, torch.sigmoid(seen.logits.double()) >= cut) and present.any()


def test_in_training_the_decoder_is_told_what_is_stated_not_what_the_head_thinks() -> None:
    model = small_student(conclusions="decided")
    labels, sides = torch.full((3, 14), float("nan")), torch.full((3, 14), -1)
    labels[0, 10], sides[0, 10], labels[1, 10] = 1.0, 1, 0.0
    encoded = model.encode(pixels(), stated=Conclusions.stated(labels, sides))
    assert encoded.observations is not None
    said = encoded.prefix - model.observation_prefix(encoded.observations.embeddings)
    expected = torch.zeros_like(said)
    expected[0, 10] = model.observation_prefix.states[10] + model.observation_prefix.sides[1]
    expected[1, 10] = -model.observation_prefix.states[10]
    torch.testing.assert_close(said, expected)


def test_decision_thresholds_travel_with_the_weights(tmp_path: Path) -> None:
    model = small_student(conclusions="decided")
    model.decide_at([n / 15 for n in range(1, 15)])
    model.save_pretrained(tmp_path)
    loaded = load_student(tmp_path)
    assert torch.equal(loaded.observation_prefix.decision_logits, model.observation_prefix.decision_logits)
    torch.testing.assert_close(loaded.encode(pixels()).prefix, model.encode(pixels()).prefix)


def test_prefix_lengths() -> None:
    lengths = {r: small_student(reasoning_input=r).encode(pixels()).prefix.shape[1] for r in ("observations", "both")}
    assert lengths == {"observations": 14, "both": 14 + 4}


def test_patches_without_observations_skip_the_queries() -> None:
    model = small_student(reasoning_input="patches")
    output = model(pixels(), texts=[REPORT], observe=False)
    assert output.logits is None and output.text_logits[0].shape == (8, VOCABULARY)


def test_library_convention_loss_equals_our_own_targets() -> None:
    model, ids = small_student(), torch.tensor([[3, 7, 8, 2]])
    image = pixels(1)
    ours = model(image, texts=[text([[3, 7, 8, 2]], [0])]).text_logits[0]
    output = model(image, input_ids=ids, labels=ids)
    torch.testing.assert_close(output.loss, functional.cross_entropy(ours, torch.tensor([7, 8, 2])))
    assert output.lm_logits.shape == (1, 4, VOCABULARY)


def test_equal_seeds_give_equal_weights_and_others_do_not() -> None:
    first, same, other = (small_student(seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["queries.queries"], other["queries.queries"])


def test_save_and_load_round_trip(tmp_path: Path) -> None:
    model = small_student().to(memory_format=torch.channels_last)
    model.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    for loaded in (load_student(tmp_path), AutoModel.from_pretrained(tmp_path)):
        assert isinstance(loaded, KDistillStudent)
        assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())
        before, after = (m.eval()(pixels(), texts=[REPORT]) for m in (model, loaded))
        torch.testing.assert_close(before.logits, after.logits, rtol=0, atol=1e-5)  # 1.6e-6 between memory formats
        torch.testing.assert_close(before.text_logits[0], after.text_logits[0], rtol=0, atol=1e-5)
    exact = load_student(tmp_path)(pixels(), texts=[REPORT])
    assert torch.equal(model(pixels(), texts=[REPORT]).logits, exact.logits)
    assert AutoConfig.from_pretrained(tmp_path).token_ids == IDS


def test_damaged_weights_are_refused_with_the_tensor_named(tmp_path: Path) -> None:
    small_student().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["queries.classifier"][0, 0] = float("nan")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"queries\.classifier.*NaN"):
        load_student(tmp_path)


def test_weights_of_another_shape_are_refused_with_the_tensor_named(tmp_path: Path) -> None:
    small_student().save_pretrained(tmp_path / "a")
    small_student(vision={**CNN, "channels": 24}).save_pretrained(tmp_path / "b")
    shutil.copy(tmp_path / "b/model.safetensors", tmp_path / "a/model.safetensors")
    with pytest.raises(WeightsError, match=r"shape \[.*24"):
        load_student(tmp_path / "a")


def test_a_pickled_file_is_refused(tmp_path: Path) -> None:
    small_student().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="can run code"):
        load_student(tmp_path)


def test_the_patch_prefix_halves_the_grid_until_it_fits() -> None:
    assert PatchPrefix(8, 12, side=16, grid=4)(torch.zeros(2, 256, 8)).shape == (2, 16, 12)
    assert PatchPrefix(8, 12, side=7, grid=4)(torch.zeros(2, 49, 8)).shape == (2, 16, 12)
    assert len(PatchPrefix(8, 12, side=4, grid=4).reduce) == 0


@pytest.mark.parametrize("norm", ["batch", "channel"])
def test_the_patch_prefix_normalises_as_the_encoder_does(norm: str) -> None:
    student = small_student(reasoning_input="patches", vision={**CNN, "norm": norm})
    assert student.patch_prefix is not None
    batch_statistics = any(isinstance(module, torch.nn.BatchNorm2d) for module in student.patch_prefix.modules())
    assert batch_statistics == (norm == "batch")


def test_weights_of_another_model_are_refused_by_name(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    small_student().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    removed = next(name for name in tensors if name.startswith("queries."))
    save_file({k: v for k, v in tensors.items() if k != removed}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=removed.replace(".", r"\.")):
        load_student(tmp_path)


def test_states_begin_at_the_decoders_own_names() -> None:
    model = small_student(conclusions="decided")
    names = torch.randn(14, model.observation_prefix.states.shape[1])
    model.observation_prefix.start_from_names(names)
    states = model.observation_prefix.states
    torch.testing.assert_close(functional.cosine_similarity(states, names), torch.ones(14))
    torch.testing.assert_close(states.square().mean(1), torch.ones(14))
    small_student(conclusions="none").observation_prefix.start_from_names(names)  # nothing to start
