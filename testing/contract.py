"""The contract that every layer passes, on whichever backend is running."""

import os
import tempfile

import keras
import numpy as np

from ._case import Case
from ._structure import (
    absent_gradients_allowed,
    assert_close,
    assert_json_round_trip,
    is_float,
    to_numpy,
)


def run_layer_contract(
    make_layer,
    inputs,
    *,
    call_kwargs=None,
    trainable_gradients=True,
    reference=None,
    tolerance=1e-5,
    variable_length=None,
    bfloat16_tolerance=0.05,
):
    """Check everything a layer owes its users.

    In this order: `get_config` through JSON; symbolic shapes and dtypes
    against the eager ones; another batch size and length; equality with a
    NumPy reference; one `fit` step with the backend's default compilation, in
    which every trainable weight must receive a finite and non-zero gradient;
    the same step in `mixed_bfloat16`; a `.keras` file saved and loaded.

    The gradient is measured without asking which backend runs: the loss is the
    inner product of the outputs with fixed random numbers plus the layer's own
    losses, and one step of plain gradient descent at rate 1 moves a weight by
    exactly its gradient.

    Args:
        make_layer: callable without arguments; returns a new layer. Called
            several times: weights are copied, never assumed equal.
        inputs: NumPy array, or a tuple, list or dict of them, first axis the
            batch (at least 2). Real numbers are cast to `floatx`, integers to
            int32.
        call_kwargs: dict of further call arguments. Arrays become inputs of
            the tested model; anything else is passed as it is.
        trainable_gradients: bool. `False` for a layer that stops gradients by
            design; it may then have any gradient that is finite.
        reference: callable `(layer, inputs) -> outputs` in NumPy, given the
            built layer; or the expected outputs themselves.
        tolerance: float. For the reference, absolute up to one and relative
            above.
        variable_length: bool. Whether axis 1 is a length that may change.
            Default: yes where the first input is an array of rank 3 or more,
            or integers of rank 2.
        bfloat16_tolerance: float or `None`. Root mean square error allowed in
            `mixed_bfloat16`, relative to the float32 output's; `None` where
            the layer decides discretely (a router).

    Returns:
        The built float32 layer, for further tests.

    Raises:
        AssertionError: names the part of the contract that is broken.

    Example:
    ```python
    def test_contract():
        x = np.random.default_rng(0).normal(size=(2, 5, 3))
        run_layer_contract(lambda: keras.layers.Dense(4), x)
    ```
    """
    case = Case(inputs, call_kwargs or {}, variable_length)
    layer = make_layer()
    outputs = to_numpy(case.call(layer))
    _check_finite(layer, outputs, "output")

    _check_config(layer, case, outputs)
    _check_symbolic(make_layer, case)
    if reference is not None:
        if callable(reference):
            reference = reference(layer, case.inputs)
        assert_close(outputs, reference, tolerance, "NumPy reference")
    _check_gradients(make_layer(), case, trainable_gradients)
    _check_bfloat16(make_layer, layer, case, outputs, bfloat16_tolerance)
    _check_saving(layer, case)
    return layer


def _check_finite(layer, arrays, what):
    for array in arrays:
        assert np.isfinite(array).all(), (
            f"{type(layer).__name__}: {what} is not finite"
        )


def _check_config(layer, case, outputs):
    """A layer rebuilt from JSON and given the weights computes the same."""
    rebuilt = assert_json_round_trip(layer)
    case.call(rebuilt)
    rebuilt.set_weights(layer.get_weights())
    assert_close(to_numpy(case.call(rebuilt)), outputs, 1e-6, "config clone")


def _check_symbolic(make_layer, case, mixed=False):
    """Shapes and dtypes before seeing data equal those after."""
    layer = make_layer()
    model = case.model(layer)
    variants = [case.arrays]
    if not mixed:
        variants.append(case.resized(batch=1))
    if case.length and not mixed:
        variants.append(case.resized(length=case.length - 1))
    for arrays in variants:
        symbols = [keras.KerasTensor(a.shape, str(a.dtype)) for a in arrays]
        static = keras.tree.flatten(case.call(layer, symbols))
        actual = keras.tree.flatten(case.call(layer, arrays))
        where = f"{type(layer).__name__} on {[a.shape for a in arrays]}"
        _check_finite(layer, to_numpy(actual), where)
        for dynamic, known, got in zip(
            model.outputs, static, actual, strict=True
        ):
            dtype = keras.backend.standardize_dtype(got.dtype)
            # Keras 3.15 on PyTorch forgets the autocast of symbolic weights.
            allowed = {dtype, "float32"} if mixed else {dtype}
            assert {dynamic.dtype, known.dtype} <= allowed, (
                f"{where}: symbolic dtypes {dynamic.dtype} and {known.dtype}, "
                f"eager {dtype}"
            )
            shape = tuple(got.shape)
            assert tuple(known.shape) == shape, (
                f"{where}: symbolic shape {known.shape}, eager {shape}"
            )
            assert len(dynamic.shape) == len(shape) and all(
                promised in (None, size)
                for promised, size in zip(dynamic.shape, shape, strict=True)
            ), f"{where}: model promises {dynamic.shape}, eager {shape}"


def _inner_product(cotangent, output):
    """Sum over a sample; Keras's mean is then over the batch alone."""
    product = keras.ops.cast(output, "float32") * cotangent
    return keras.ops.sum(product, axis=tuple(range(1, len(product.shape))))


def _check_gradients(layer, case, non_zero):
    """One `fit` step of SGD at rate 1 moves each weight by its gradient."""
    case.call(layer)
    model = case.model(layer, shifted=not layer.trainable_weights)
    outputs = keras.tree.flatten(case.call(layer))
    generator = np.random.default_rng(0)
    losses, targets = [], []
    for output in outputs:
        usable = is_float(output.dtype) and len(output.shape) > 0
        losses.append(_inner_product if usable else None)
        target = generator.normal(size=tuple(output.shape) or (1,))
        targets.append(target.astype("float32"))
    model.compile(optimizer=keras.optimizers.SGD(1.0), loss=losses)
    weights = model.trainable_weights
    before = [np.array(to_numpy(weight)[0]) for weight in weights]
    with absent_gradients_allowed():
        history = model.fit(
            case.named(),
            targets,
            batch_size=len(case.arrays[0]),
            shuffle=False,
            verbose=0,
        )
    assert np.isfinite(history.history["loss"]).all(), (
        f"{type(layer).__name__}: the loss of a fit step is not finite"
    )
    for weight, old in zip(weights, before, strict=True):
        gradient = old - to_numpy(weight)[0]
        assert np.isfinite(gradient).all(), (
            f"{weight.path}: gradient is not finite"
        )
        assert not non_zero or np.any(gradient), (
            f"{weight.path}: trainable, yet its gradient is zero"
        )


def _check_bfloat16(make_layer, layer, case, outputs, tolerance):
    """The same weights compute and train in mixed precision."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = make_layer()
        case.call(mixed)
        for weight in mixed.trainable_weights:
            assert weight.dtype == "float32", f"{weight.path}: {weight.dtype}"
        mixed.set_weights(layer.get_weights())
        actual = to_numpy(case.call(mixed))
        _check_finite(mixed, actual, "mixed_bfloat16 output")
        _check_symbolic(make_layer, case, mixed=True)
        _check_gradients(mixed, case, non_zero=False)
    finally:
        keras.config.set_dtype_policy(policy)
    if tolerance is None:
        return
    for got, wanted in zip(actual, outputs, strict=True):
        error = np.sqrt(np.mean(np.square(got - wanted, dtype="float64")))
        scale = np.sqrt(np.mean(np.square(wanted, dtype="float64")))
        assert error <= tolerance * max(scale, 1e-3), (
            f"{type(layer).__name__}: mixed_bfloat16 is {error:.2g} from "
            f"float32 outputs of size {scale:.2g}"
        )


def _check_saving(layer, case):
    """A `.keras` file gives back the weights and the outputs."""
    model = case.model(layer)
    expected = to_numpy(model(case.named()))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.keras")
        model.save(path)
        loaded = keras.saving.load_model(path)
    for old, new in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(to_numpy(old)[0], to_numpy(new)[0])
    assert_close(to_numpy(loaded(case.named())), expected, 1e-6, "loaded model")
