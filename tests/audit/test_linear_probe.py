"""Linear probes: a planted signal is found, noise is not, and what is not known stays out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from kdistill.audit.linear_probe import EMBEDDINGS, ENCODER, HEAD, Features, extract_features, fit_probes, probe, score
from kdistill.evaluation.bootstrap import bootstrap_weights, interval
from kdistill.student.images import pixel_values

from ..student.small import small_student

N, M, F = 600, 400, 24
PATIENTS = [f"p{n // 2}" for n in range(M)]


def labels(number: int, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random((number, 14)) < 0.3).astype(np.float32)


def planted(y: np.ndarray, seed: int) -> np.ndarray:
    """Features in which each observation has a direction, at two standard deviations of the noise."""
    directions = np.linalg.qr(np.random.default_rng(5).normal(size=(F, 14)))[0].T
    noise = np.random.default_rng(seed).normal(size=(len(y), F))
    return (7 + 100 * (2 * y @ directions + noise)).astype(np.float32)  # scale and offset must not matter


def noise(number: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(number, F)).astype(np.float32)


def features(encoder: np.ndarray, embeddings: np.ndarray) -> Features:
    return Features(encoder, embeddings, np.zeros((len(encoder), 14), dtype=np.float32))


def test_a_planted_signal_is_found_and_noise_is_not() -> None:
    y, z = labels(N, 0), labels(M, 1)
    own = [np.stack([2 * x[:, [n]] + noise(len(x), 7 + n) for n in range(14)], axis=1) for x in (y, z)]
    train, test = features(noise(N, 2), own[0]), features(noise(M, 3), own[1])
    weights = bootstrap_weights(PATIENTS, 200, 0)
    found = probe(train, y, test, z, weights, kinds=[ENCODER, EMBEDDINGS, HEAD])
    assert found[EMBEDDINGS].macro.value > 0.95 and found[EMBEDDINGS].micro.value > 0.95
    assert found[EMBEDDINGS].num_fitted == 14 and found[EMBEDDINGS].n == M
    low, high = interval(found[ENCODER].macro.samples)
    assert low < 0.5 < high and high - low < 0.08  # 14 x 400 items
    assert found[HEAD].macro.value == found[HEAD].micro.value == 0.5, "constant logits tie everywhere"

    shared = probe(features(planted(y, 4), own[0]), y, features(planted(z, 6), own[1]), z, weights, kinds=[ENCODER])
    assert shared[ENCODER].macro.value == pytest.approx(0.92, abs=0.02)  # Phi(2 / sqrt(2)) is the best there is
    with_nothing = probe(train, y, features(planted(z, 6), own[1]), z, weights, kinds=[ENCODER])
    assert with_nothing[ENCODER].macro.value == pytest.approx(0.5, abs=0.05), "fitted on noise, nothing is read off"


def test_scores_equal_scikit_learn() -> None:
    y, z = labels(N, 0), labels(M, 1)
    logits = fit_probes(planted(y, 4), y, planted(z, 6))
    result = score(ENCODER, logits, z, np.ones((M, 1)))
    each = [roc_auc_score(z[:, n], logits[:, n]) for n in range(14)]
    np.testing.assert_allclose(result.by_observation, each, atol=1e-12)
    assert result.macro.value == pytest.approx(np.mean(each), abs=1e-12)
    assert result.micro.value == pytest.approx(roc_auc_score(z.ravel(), logits.ravel()), abs=1e-12)
    assert 0.45 < result.micro_floor < 0.6  # all observations are equally frequent here


def test_unknown_labels_stay_out_of_fit_and_score() -> None:
    y, z = labels(N, 0), labels(M, 1)
    train, test = planted(y, 4), planted(z, 6)
    hidden = y.copy()
    hidden[:300] = np.nan
    np.testing.assert_allclose(fit_probes(train, hidden, test), fit_probes(train[300:], y[300:], test), atol=1e-9)
    hidden[:, 3] = np.nan
    hidden[:, 4] = 0
    logits = fit_probes(train, hidden, test)
    assert np.isnan(logits[:, [3, 4]]).all() and np.isfinite(np.delete(logits, [3, 4], axis=1)).all()
    z[:200, 0] = np.nan
    z[:, 5] = 1
    result = score(ENCODER, logits, z, np.ones((M, 1)))
    assert [n for n, auc in enumerate(result.by_observation) if auc is None] == [3, 4, 5] and result.num_fitted == 11
    assert result.by_observation[0] == pytest.approx(roc_auc_score(z[200:, 0], logits[200:, 0]), abs=1e-12)


def test_features_are_the_encoders_pooled_and_the_embeddings() -> None:
    model = small_student()
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32), dtype=np.uint8)
    found = extract_features(model, images, [4, 0, 2], batch_size=2)
    with torch.no_grad():
        values = pixel_values(images[[4, 0, 2]], model.config)
        grid, seen = model.vision(values).flatten(2), model.encode(values).observations
    expected = torch.cat([grid.mean(-1), grid.max(-1).values], dim=1).numpy()
    np.testing.assert_allclose(found.encoder, expected, atol=1e-6)
    np.testing.assert_allclose(found.embeddings, seen.embeddings.numpy(), atol=1e-6)
    np.testing.assert_allclose(found.head_logits, seen.logits.numpy(), atol=1e-6)
