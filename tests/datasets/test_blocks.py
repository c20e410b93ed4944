import numpy as np
import pytest
from orrery.datasets.blocks import blocks


@pytest.mark.parametrize("extra", [0, 1, 128])
def test_blocks_are_disjoint_and_targets_are_the_next_tokens(extra):
    ids = np.arange(129 * 3 + extra)
    x, y = blocks(ids)
    assert x.shape == y.shape == (3, 128)
    assert x.dtype == y.dtype == "int32"
    for k in range(3):
        np.testing.assert_array_equal(x[k], ids[129 * k : 129 * k + 128])
        np.testing.assert_array_equal(y[k], ids[129 * k + 1 : 129 * (k + 1)])
    np.testing.assert_array_equal(y[:, :-1], x[:, 1:])


def test_length_one():
    x, y = blocks([1, 2, 3, 4, 5], length=1)
    assert x.tolist() == [[1], [3]] and y.tolist() == [[2], [4]]


@pytest.mark.parametrize("length", [0, -3])
def test_length_must_be_positive(length):
    with pytest.raises(ValueError, match=f"Received: length={length}"):
        blocks(np.arange(200), length)


def test_too_short_a_text_names_what_it_needs():
    with pytest.raises(ValueError, match="needs 129 tokens.*128 tokens"):
        blocks(np.arange(128))


def test_bad_ids():
    with pytest.raises(ValueError, match="0 and 9. Received: 10 at position 3"):
        blocks([1, 2, 3, 10], length=1, vocabulary_size=10)
    with pytest.raises(ValueError, match="Received: -1 at position 0"):
        blocks([-1, 2, 3], length=1)
    with pytest.raises(ValueError, match="one stream"):
        blocks(np.zeros((2, 3), "int32"), length=1)
    with pytest.raises(TypeError, match="integers"):
        blocks(np.zeros(4), length=1)
    with pytest.raises(TypeError):
        blocks(np.arange(9), length=2.5)
