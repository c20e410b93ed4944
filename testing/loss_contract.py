"""The contract that every loss passes, on whichever backend is running."""

import keras
import numpy as np

from ._structure import (
    absent_gradients_allowed,
    assert_close,
    assert_json_round_trip,
    is_float,
    standardized,
    to_numpy,
)


def run_loss_contract(
    make_loss,
    inputs,
    *,
    gradients=None,
    reference=None,
    tolerance=1e-5,
):
    """Check everything a loss owes its users.

    `get_config` through JSON; equality with a NumPy reference; the clone
    computes the same; one `fit` step with the backend's default compilation,
    which shows the arguments that receive a gradient and those that, detached
    by design, receive exactly none; finiteness in bfloat16.

    Args:
        make_loss: callable without arguments; returns a new loss.
        inputs: tuple of NumPy arrays, the positional arguments of the call;
            for a `keras.losses.Loss` these are `(y_true, y_pred)`.
        gradients: tuple of bool, one per argument: whether it must receive a
            gradient. Default: the last argument alone.
        reference: callable `(*inputs) -> value` in NumPy, or the value.
        tolerance: float. For the reference, absolute up to one and relative
            above.

    Returns:
        The loss.

    Raises:
        AssertionError: names the part of the contract that is broken.

    Example:
    ```python
    run_loss_contract(
        keras.losses.MeanSquaredError,
        (np.zeros((2, 3)), np.ones((2, 3))),
        reference=1.0,
    )
    ```
    """
    arrays = tuple(standardized(array) for array in inputs)
    if gradients is None:
        gradients = (*[False] * (len(arrays) - 1), True)
    if len(gradients) != len(arrays):
        raise ValueError(
            f"`gradients` has {len(gradients)} entries for {len(arrays)} inputs"
        )
    loss = make_loss()
    value = to_numpy(_call(loss, arrays))
    assert np.isfinite(value).all(), f"{type(loss).__name__} is not finite"
    if reference is not None:
        expected = reference(*arrays) if callable(reference) else reference
        assert_close(value, expected, tolerance, "NumPy reference")

    rebuilt = assert_json_round_trip(loss)
    assert_close(to_numpy(_call(rebuilt, arrays)), value, 1e-6, "config clone")
    _check_gradients(make_loss(), arrays, gradients)

    low = [
        keras.ops.cast(x, "bfloat16") if is_float(x.dtype) else x
        for x in arrays
    ]
    assert np.isfinite(to_numpy(_call(make_loss(), low))).all(), (
        f"{type(loss).__name__} is not finite in bfloat16"
    )
    return loss


def _call(loss, arrays):
    return loss(*[keras.ops.convert_to_tensor(array) for array in arrays])


class _Offsets(keras.layers.Layer):
    """The loss of its inputs, each with a trainable zero added."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def build(self, shapes):
        self.offsets = [
            self.add_weight(
                shape=shape[1:], initializer="zeros", name=f"argument_{i}"
            )
            for i, shape in enumerate(shapes)
        ]

    def call(self, inputs):
        shifted = [
            x + offset if is_float(x.dtype) else x
            for x, offset in zip(inputs, self.offsets, strict=True)
        ]
        self.add_loss(keras.ops.mean(self.loss(*shifted)))
        return inputs[0]


def _check_gradients(loss, arrays, gradients):
    """One `fit` step of SGD at rate 1 moves each offset by its gradient."""
    symbols = {
        f"input_{i}": keras.Input(
            batch_shape=(None, *array.shape[1:]),
            dtype=str(array.dtype),
            name=f"input_{i}",
        )
        for i, array in enumerate(arrays)
    }
    probe = _Offsets(loss)
    model = keras.Model(symbols, probe(list(symbols.values())))
    model.compile(optimizer=keras.optimizers.SGD(1.0))
    with absent_gradients_allowed():
        model.fit(
            {f"input_{i}": array for i, array in enumerate(arrays)},
            batch_size=len(arrays[0]),
            verbose=0,
        )
    for index, (offset, expected) in enumerate(
        zip(probe.offsets, gradients, strict=True)
    ):
        moved = to_numpy(offset)[0]
        where = f"{type(loss).__name__}, argument {index}"
        assert np.isfinite(moved).all(), f"{where}: gradient is not finite"
        assert bool(np.any(moved)) == expected, (
            f"{where}: receives {'a' if np.any(moved) else 'no'} gradient"
        )
