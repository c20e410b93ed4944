"""Nested NumPy arrays in and out of Keras, the same on every backend."""

import contextlib
import json
import warnings

import keras
import numpy as np


def standardized(array):
    """The array in the dtype Keras would give it: floatx, int32 or bool."""
    array = np.asarray(array)
    if array.dtype.kind == "f":
        return array.astype(keras.config.floatx())
    if array.dtype.kind in "iu":
        return array.astype("int32")
    return array


def is_array(value):
    """Whether a call argument is data rather than a Python flag."""
    return isinstance(value, np.ndarray) or keras.ops.is_tensor(value)


def is_float(dtype):
    """Whether a dtype is a real floating-point one, bfloat16 included."""
    return keras.backend.is_float_dtype(keras.backend.standardize_dtype(dtype))


def to_numpy(structure):
    """A flat list of NumPy arrays, bfloat16 widened to float32."""

    def convert(tensor):
        if keras.backend.standardize_dtype(tensor.dtype) == "bfloat16":
            tensor = keras.ops.cast(tensor, "float32")
        return np.asarray(keras.ops.convert_to_numpy(tensor))

    return [convert(leaf) for leaf in keras.tree.flatten(structure)]


@contextlib.contextmanager
def absent_gradients_allowed():
    """Keras warns of weights without a gradient; here an assertion judges."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Gradients do not exist")
        yield


def assert_json_round_trip(item):
    """`item` survives JSON, and Keras finds its class without being told.

    Returns:
        The object rebuilt from the JSON text.
    """
    config = item.get_config()
    plain = json.loads(json.dumps(config))
    rebuilt = type(item).from_config(json.loads(json.dumps(config)))
    again = json.loads(json.dumps(rebuilt.get_config()))
    assert again == plain, (
        f"{type(item).__name__}.get_config() changes in a round trip:\n"
        f"  before {plain}\n  after  {again}"
    )
    serialized = json.dumps(keras.saving.serialize_keras_object(item))
    found = keras.saving.deserialize_keras_object(json.loads(serialized))
    assert type(found) is type(item), (
        f"{type(item).__name__} deserializes as {type(found).__name__}; "
        "is it registered with register_keras_serializable?"
    )
    return rebuilt


def assert_close(actual, expected, tolerance, what):
    """Largest difference at most `tolerance`, relative where above one."""
    actual, expected = keras.tree.flatten(actual), keras.tree.flatten(expected)
    assert len(actual) == len(expected), (
        f"{what}: {len(actual)} outputs, expected {len(expected)}"
    )
    for got, wanted in zip(actual, expected, strict=True):
        np.testing.assert_allclose(
            np.asarray(got, "float64"),
            np.asarray(wanted, "float64"),
            rtol=tolerance,
            atol=tolerance,
            err_msg=what,
        )
