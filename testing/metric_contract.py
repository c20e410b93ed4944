"""The contract that every metric passes, on whichever backend is running."""

import keras
import numpy as np

from ._structure import (
    assert_close,
    assert_json_round_trip,
    standardized,
    to_numpy,
)


def run_metric_contract(
    make_metric,
    y_true,
    y_pred,
    sample_weight=None,
    *,
    reference=None,
    tolerance=1e-5,
):
    """Check everything a metric owes its users.

    `get_config` through JSON; equality with a NumPy reference; the same value
    however the data are cut into batches; `reset_state`; and the same value
    from a compiled `model.evaluate`.

    Args:
        make_metric: callable without arguments; returns a new metric.
        y_true: NumPy array, at least 3 samples.
        y_pred: NumPy array, as many samples.
        sample_weight: NumPy array or `None`.
        reference: callable `(y_true, y_pred, sample_weight) -> value` in
            NumPy, or the value.
        tolerance: float. For every comparison, absolute up to one and
            relative above.

    Returns:
        The metric after seeing all data once.

    Raises:
        AssertionError: names the part of the contract that is broken.

    Example:
    ```python
    run_metric_contract(
        keras.metrics.MeanSquaredError, np.zeros((3, 2)), np.ones((3, 2))
    )
    ```
    """
    data = [standardized(y_true), standardized(y_pred)]
    if sample_weight is not None:
        data.append(standardized(sample_weight))
    metric = make_metric()
    empty = _state(metric)
    value = _value(metric, [data])
    assert np.isfinite(value), f"{type(metric).__name__} is not finite"
    if reference is not None:
        if callable(reference):
            reference = reference(*data[:2], sample_weight)
        assert_close(value, reference, tolerance, "NumPy reference")

    rebuilt = assert_json_round_trip(metric)
    assert_close(_value(rebuilt, [data]), value, tolerance, "config clone")

    uneven = [[x[:1] for x in data], [x[1:] for x in data]]
    metric.reset_state()
    for old, new in zip(empty, _state(metric), strict=True):
        np.testing.assert_array_equal(old, new, err_msg="reset_state")
    assert_close(_value(metric, uneven), value, tolerance, "uneven batches")
    assert_close(_evaluated(make_metric(), data), value, tolerance, "evaluate")
    return metric


def _state(metric):
    return [np.array(to_numpy(variable)[0]) for variable in metric.variables]


def _value(metric, batches):
    for batch in batches:
        metric.update_state(*[keras.ops.convert_to_tensor(x) for x in batch])
    return to_numpy(metric.result())[0]


def _evaluated(metric, data):
    """The metric as `evaluate` reports it, in batches of two."""
    y_true, y_pred, *weights = data
    inputs = keras.Input(shape=y_pred.shape[1:], dtype=str(y_pred.dtype))
    model = keras.Model(inputs, keras.layers.Identity()(inputs))
    model.compile(weighted_metrics=[metric], loss=_no_loss)
    return model.evaluate(
        y_pred,
        y_true,
        batch_size=2,
        sample_weight=(weights or [None])[0],
        verbose=0,
        return_dict=True,
    )[metric.name]


def _no_loss(y_true, y_pred):
    return keras.ops.zeros(keras.ops.shape(y_pred)[:1])
