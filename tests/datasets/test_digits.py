"""Labelled examples: their split, their batches, what is refused."""

import sys

import numpy as np
import pytest
from orrery.datasets import LabelledBatches, digits, noisy_patterns


def test_digits():
    pytest.importorskip("sklearn")
    parts = digits(seed=1)
    assert [len(y) for _, y in parts.values()] == [1078, 359, 360]
    every = np.concatenate([x for x, _ in parts.values()])
    assert every.shape == (1797, 64) and every.dtype == "float32"
    assert every.min() == 0 and every.max() == 1
    for x, y in parts.values():
        assert len(x) == len(y) and y.dtype == "int32"
        assert set(y.tolist()) == set(range(10))
    again, other = digits(seed=1), digits(seed=2)
    np.testing.assert_array_equal(again["test"][0], parts["test"][0])
    assert not np.array_equal(other["test"][1], parts["test"][1])


def test_missing_scikit_learn_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"orrery\[science\]"):
        digits()


def test_noisy_patterns():
    parts = noisy_patterns(200, width=9, num_classes=3, variants=1, flips=0.0)
    x, y = map(np.concatenate, zip(*parts.values(), strict=True))
    assert x.shape == (200, 9) and set(np.unique(x)) == {0.0, 1.0}
    for label in range(3):
        assert len(np.unique(x[y == label], axis=0)) == 1
    again = noisy_patterns(200, width=9, num_classes=3, variants=1, flips=0.0)
    np.testing.assert_array_equal(again["valid"][0], parts["valid"][0])


def test_batches_fill_up_the_last():
    x, y = np.arange(10.0).reshape(5, 2), np.arange(5)
    batches = LabelledBatches(x, y, batch_size=2, seed=3)
    seen, weights = [], []
    for index in range(len(batches)):
        rows, labels, weight = batches[index]
        np.testing.assert_array_equal(rows, x[labels])
        assert rows.dtype == "float32" and labels.dtype == "int32"
        seen += labels.tolist()
        weights += weight.tolist()
    assert sorted(seen[:5]) == [0, 1, 2, 3, 4]
    assert weights == [1, 1, 1, 1, 1, 0]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: noisy_patterns(2), ValueError, "count"),
        (lambda: noisy_patterns(width=0), ValueError, "width"),
        (lambda: noisy_patterns(num_classes=1), ValueError, "num_classes"),
        (lambda: noisy_patterns(variants=0), ValueError, "variants"),
        (lambda: noisy_patterns(True), ValueError, "count"),
        (lambda: noisy_patterns(flips=0.5), ValueError, "flips"),
        (lambda: noisy_patterns(flips="a"), ValueError, "flips"),
        (lambda: noisy_patterns(seed=-1), ValueError, "seed"),
        (
            lambda: LabelledBatches(np.ones((2, 3)), np.arange(3)),
            ValueError,
            "shapes",
        ),
        (
            lambda: LabelledBatches(np.ones((2, 3)), np.ones(2)),
            TypeError,
            "integers",
        ),
        (
            lambda: LabelledBatches([[1.0], [np.nan]], [0, 1]),
            ValueError,
            "example 1",
        ),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
