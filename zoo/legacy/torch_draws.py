"""The random numbers that PyTorch draws on a CPU, without PyTorch."""

import math

import keras
import numpy as np


class TorchDraws:
    """PyTorch's CPU generator after `torch.manual_seed(seed)`.

    Both are MT19937. What the original drew is drawn here on any backend, bit
    for bit but for `truncated_normal`, where the inverse error function of
    another library differs in its last digits.

    Args:
        seed: int, from 0 to `2**32 - 1`.

    Example:
    >>> TorchDraws(42).integers(100, (4,)).tolist()
    [42, 67, 76, 14]
    """

    def __init__(self, seed):
        self.state = np.random.RandomState(seed)

    def raw(self, size):
        """The next `size` outputs of 32 bits, uint32."""
        return self.state.randint(0, 2**32, size, dtype="uint32")

    def integers(self, high, shape):
        """`torch.randint(high, shape)`, int32."""
        return (self.raw(shape) % high).astype("int32")

    def uniform(self, shape):
        """`torch.rand(shape)`, float32."""
        return (self.raw(shape) & (2**24 - 1)).astype("float32") / 2**24

    def skip(self, size):
        """Pass over what fills a tensor of `size`, a multiple of 16."""
        self.raw(size)

    def permutation(self, size):
        """`torch.randperm(size)`."""
        order = np.arange(size)
        for i, bits in enumerate(self.raw(max(size - 1, 0)).tolist()):
            j = i + bits % (size - i)
            order[i], order[j] = order[j], order[i]
        return order

    def truncated_normal(self, shape, stddev):
        """`trunc_normal_` of the PyTorch of 2025: cut at +-2, absolutely.

        A uniform number through the inverse of the normal distribution. At the
        deviations of a network nothing is cut but an infinite value.
        """
        edge = math.erf(2 / stddev / math.sqrt(2))
        uniform = (2 * edge * self.uniform(shape) - edge).astype("float32")
        normal = keras.ops.convert_to_numpy(keras.ops.erfinv(uniform))
        return np.clip(normal * np.float32(stddev * math.sqrt(2)), -2, 2)


def draw_as_published(model, draws):
    """Give a `LegoLM` the initial weights of the original.

    PyTorch filled every matrix when it was made, and the original then drew
    each anew, in the same order: embedding; q, k, v, o, W_1, W_2, W_3 of every
    layer; head. A matrix is drawn as `(out, in)` and used transposed. Norms
    draw nothing.

    Args:
        model: a `LegoLM`, changed.
        draws: a `TorchDraws`, advanced.
    """
    d, f, words = model.dim, model.hidden_dim, model.vocabulary_size
    shapes = [(d, d)] * 4 + [(f, d), (d, f), (f, d)]
    count = words * d + model.num_layers * sum(a * b for a, b in shapes)
    draws.skip(count + words * d)
    table = model.token_embedding.embeddings
    table.assign(draws.truncated_normal((words, d), 0.02))
    for layer in model.decoder_layers:
        q, k, v, o, gate, output, value = (
            draws.truncated_normal(shape, d**-0.5).T for shape in shapes
        )
        mixer, feedforward = layer.mixer, layer.feedforward
        mixer.query_key_value.kernel.assign(np.concatenate([q, k, v], 1))
        mixer.output_projection.kernel.assign(o)
        feedforward.gate.kernel.assign(gate)
        feedforward.value.kernel.assign(value)
        feedforward.output_projection.kernel.assign(output)
    kernel = model.head.projection.kernel
    kernel.assign(draws.truncated_normal((words, d), d**-0.5).T)
