import numpy as np
import pytest
from keras import ops
from orrery.layers.lift import Lift
from orrery.testing import run_layer_contract


def delay_state(x, delays):
    """`X[t] = (h[t], ..., h[t-k])`, zero before the start, by a loop."""
    batch, length, _ = x.shape
    rows = []
    for t in range(length):
        earlier = [
            x[:, t - j] if t >= j else np.zeros_like(x[:, 0])
            for j in range(delays + 1)
        ]
        rows.append(np.concatenate(earlier, axis=-1))
    return np.stack(rows, axis=1)


def lifted(layer, x):
    state = delay_state(np.asarray(x, "float64"), layer.delays)
    parts = [state, np.ones_like(state[..., :1])]
    if layer.lift_dim:
        kernel = ops.convert_to_numpy(layer.kernel).astype("float64")
        bias = ops.convert_to_numpy(layer.bias).astype("float64")
        mean_square = np.mean(state**2, axis=-1, keepdims=True)
        parts.append(
            np.tanh(state / np.sqrt(mean_square + 1e-6) @ kernel + bias)
        )
    return np.concatenate(parts, axis=-1)


@pytest.mark.parametrize("lift_dim, delays", [(7, 0), (7, 2), (0, 0), (0, 3)])
def test_contract(lift_dim, delays):
    x = np.random.default_rng(0).normal(size=(2, 6, 3))
    layer = run_layer_contract(
        lambda: Lift(lift_dim, delays),
        x,
        reference=lifted,
    )
    assert layer.observables_dim == (delays + 1) * 3 + 1 + lift_dim


def test_observables_do_not_depend_on_the_scale_of_the_state():
    x = np.random.default_rng(0).normal(size=(2, 6, 3)).astype("float32")
    lift = Lift(5)
    small, large = (
        ops.convert_to_numpy(lift(scale * x))[..., 4:] for scale in (1.0, 1e3)
    )
    np.testing.assert_allclose(small, large, atol=1e-5)


def test_computes_in_float32_under_any_policy():
    x = np.random.default_rng(0).normal(size=(2, 6, 3)).astype("float32")
    lift = Lift(5, delays=1, dtype="mixed_bfloat16")
    assert ops.dtype(lift(x)) == "bfloat16"
    z = lift.observables(lift.delay_state(ops.cast(x, "bfloat16")))
    rounded = ops.convert_to_numpy(ops.cast(ops.cast(x, "bfloat16"), "float32"))
    np.testing.assert_allclose(
        ops.convert_to_numpy(z), lifted(lift, rounded), atol=1e-5
    )


@pytest.mark.parametrize("name", ["lift_dim", "delays"])
@pytest.mark.parametrize("value", [-1, 1.5, None])
def test_bad_argument(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be an integer >= 0"):
        Lift(**{name: value})


def test_unknown_width():
    with pytest.raises(ValueError, match="last axis"):
        Lift(4).build((None, None, None))
