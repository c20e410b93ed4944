import keras
import numpy as np
import pytest
from keras import ops
from orrery.layers.edmd import StreamingEDMD, sample

SIZE, TOKENS = 32, 10_000


def stable_matrix(size, generator, radius=0.95):
    matrix = generator.normal(size=(size, size))
    return radius * matrix / np.abs(np.linalg.eigvals(matrix)).max()


def edmd(size, **kwargs):
    layer = StreamingEDMD(**kwargs)
    layer.build((None, size))
    return layer


def solved(layer):
    return ops.convert_to_numpy(layer.solve()).astype("float64")


def distance(actual, expected):
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


def pairs(generator, tokens=TOKENS, size=SIZE):
    matrix = stable_matrix(size, generator)
    z = generator.normal(size=(tokens, size))
    return matrix, z.astype("float32"), (z @ matrix.T).astype("float32")


def test_recovers_a_linear_system_whatever_the_partition():
    generator = np.random.default_rng(0)
    matrix, z, z_next = pairs(generator)
    uneven = np.sort(generator.choice(TOKENS, size=16, replace=False))
    estimates = []
    for cuts in ([], np.arange(500, TOKENS, 500), uneven):
        layer = edmd(SIZE, forget=1.0)
        for batch in zip(
            np.split(z, cuts), np.split(z_next, cuts), strict=True
        ):
            layer.update(*batch)
        assert float(layer.count) == TOKENS
        estimates.append(solved(layer))
    for estimate in estimates:
        assert distance(estimate, matrix) < 1e-4
        assert distance(estimate, estimates[0]) < 1e-5


def test_equals_the_formula_in_float64():
    generator = np.random.default_rng(1)
    forget, ridge, size = 0.9, 1e-2, 5
    layer = edmd(size, forget=forget, ridge=ridge)
    gram, cross = np.zeros((2, size, size))
    for _ in range(4):
        z, z_next = generator.normal(size=(2, 50, size))
        z *= [1e-2, 1.0, 1.0, 1.0, 1e3]
        layer.update(z.astype("float32"), z_next.astype("float32"))
        gram = forget * gram + z.T @ z
        cross = forget * cross + z_next.T @ z
    mean_square = np.diag(np.diag(gram))
    expected = cross @ np.linalg.inv(gram + ridge * mean_square)
    np.testing.assert_allclose(solved(layer), expected, rtol=1e-3, atol=1e-7)
    assert distance(solved(layer), expected) < 1e-5


def test_units_of_the_features_do_not_matter():
    _, z, z_next = pairs(np.random.default_rng(2), tokens=200, size=4)
    units = np.array([1e-3, 1.0, 30.0, 1e4], "float32")
    layers = [edmd(4, ridge=0.1) for _ in range(2)]
    layers[0].update(z, z_next)
    layers[1].update(z * units, z_next)
    expected = solved(layers[0])
    assert distance(solved(layers[1]) * units, expected) < 1e-5


@pytest.mark.parametrize("size, rank, tokens", [(193, 20, 4096), (65, 65, 16)])
def test_rank_deficient_data_stay_bounded(size, rank, tokens):
    generator = np.random.default_rng(3)
    features = generator.normal(size=(tokens, rank))
    z = features @ generator.normal(size=(rank, size)) + 3.0
    z = z.astype("float32")
    layer = edmd(size, forget=1.0)
    layer.update(z, z)
    estimate = solved(layer)
    # On the data K acts as the identity; elsewhere it stays small.
    assert distance(z @ estimate.T, z) < 1e-3
    assert np.linalg.norm(estimate, 2) < 3.0


def test_dead_and_duplicate_features():
    _, z, _ = pairs(np.random.default_rng(4), tokens=500, size=3)
    z = np.concatenate([z, np.zeros_like(z[:, :1]), z[:, :1]], axis=1)
    layer = edmd(5)
    layer.update(z, z)
    assert distance(z @ solved(layer).T, z) < 1e-4


def test_no_data_gives_zero():
    np.testing.assert_array_equal(solved(edmd(3)), np.zeros((3, 3)))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("where", [0, 1])
def test_non_finite_batch_is_skipped_and_counted(value, where):
    matrix, z, z_next = pairs(np.random.default_rng(5), tokens=500, size=4)
    layer = edmd(4)
    layer.update(z, z_next)
    before = [ops.convert_to_numpy(v).copy() for v in layer.variables[:3]]
    batch = [z.copy(), z_next.copy()]
    batch[where][7, 2] = value
    layer.update(*batch)
    if value == 1e30 and where == 1:
        # Large, but finite against features of order one.
        assert int(layer.skipped) == 0
        return
    for old, new in zip(before, layer.variables[:3], strict=True):
        np.testing.assert_array_equal(old, ops.convert_to_numpy(new))
    assert (int(layer.updates), int(layer.skipped)) == (2, 1)


def test_statistics_are_float32_under_any_policy():
    layer = edmd(4, dtype="mixed_bfloat16")
    z = ops.cast(keras.random.normal((50, 4), seed=0), "bfloat16")
    layer.update(z, z)
    assert {v.dtype for v in layer.variables} == {"float32", "int32"}
    assert ops.dtype(layer.solve()) == "float32"
    assert distance(solved(layer), np.eye(4)) < 1e-4


def test_reset():
    _, z, z_next = pairs(np.random.default_rng(6), tokens=50, size=4)
    layer = edmd(4)
    layer.update(z, z_next)
    layer.reset()
    assert not any(ops.convert_to_numpy(v).any() for v in layer.variables)


def test_config_round_trip():
    layer = StreamingEDMD(forget=0.5, ridge=0.25, name="statistics")
    clone = StreamingEDMD.from_config(layer.get_config())
    assert clone.get_config() == layer.get_config()


@pytest.mark.parametrize(
    "arguments", [{"forget": 0.0}, {"forget": 1.5}, {"ridge": 0.0}]
)
def test_bad_argument(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        StreamingEDMD(**arguments)


def test_sample_takes_all_positions_and_no_more_than_asked():
    batch, length = 32, 128
    position = np.tile(np.arange(length, dtype="float32"), (batch, 1))
    taken = ops.convert_to_numpy(sample(position[..., None], 512))
    assert 256 < len(taken) <= 512
    assert len(np.unique(taken)) == length
    assert len(ops.convert_to_numpy(sample(position[..., None]))) == 32 * 128
    assert len(ops.convert_to_numpy(sample(position[:1, :, None], 512))) == 128
