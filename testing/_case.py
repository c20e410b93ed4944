"""One call of a layer: its data, its flags, and a model around it."""

import keras

from ._structure import is_array, is_float, standardized


class Case:
    """Inputs and call arguments, split into data and flags."""

    def __init__(self, inputs, call_kwargs, variable_length):
        map_structure = keras.tree.map_structure
        self.inputs = map_structure(standardized, inputs)
        arrays = {k: v for k, v in call_kwargs.items() if is_array(v)}
        self.flags = {k: v for k, v in call_kwargs.items() if k not in arrays}
        self.structure = (self.inputs, map_structure(standardized, arrays))
        self.arrays = keras.tree.flatten(self.structure)
        first = self.arrays[0]
        if variable_length is None:
            variable_length = first.ndim >= (
                2 if first.dtype.kind == "i" else 3
            )
        self.length = first.shape[1] if variable_length else None

    def call(self, layer, leaves=None):
        """The layer on tensors, or on symbolic ones of the same structure."""
        if leaves is None:
            leaves = self.arrays
        if is_array(leaves[0]):
            leaves = [keras.ops.convert_to_tensor(leaf) for leaf in leaves]
        inputs, kwargs = keras.tree.pack_sequence_as(self.structure, leaves)
        return layer(inputs, **kwargs, **self.flags)

    def resized(self, batch=None, length=None):
        """The arrays cut to another batch size or length."""

        def cut(array):
            array = array[:batch]
            if length and array.ndim > 1 and array.shape[1] == self.length:
                array = array[:, :length]
            return array

        return [cut(array) for array in self.arrays]

    def named(self, arrays=None):
        """The arrays under the names of the tested model's inputs."""
        arrays = self.arrays if arrays is None else arrays
        return {f"input_{i}": array for i, array in enumerate(arrays)}

    def model(self, layer, *, shifted=False):
        """A functional model around the layer, batch and length unknown."""

        def unknown(shape):
            cut = len(shape) > 1 and shape[1] == self.length
            return (None, None, *shape[2:]) if cut else (None, *shape[1:])

        symbols = {
            name: keras.Input(
                batch_shape=unknown(array.shape),
                dtype=str(array.dtype),
                name=name,
            )
            for name, array in self.named().items()
        }
        leaves = list(symbols.values())
        if shifted:
            leaves = [_Shift()(x) if is_float(x.dtype) else x for x in leaves]
        outputs = keras.tree.flatten(self.call(layer, leaves))
        return keras.Model(symbols, outputs)


class _Shift(keras.layers.Layer):
    """Adds a trainable zero: its gradient is that of the input."""

    def build(self, input_shape):
        shape = input_shape[-1:] if len(input_shape) > 1 else ()
        self.shift = self.add_weight(shape=shape, initializer="zeros")

    def call(self, inputs):
        return inputs + self.shift
