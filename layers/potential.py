"""Potential energies with their forces, both in closed form."""

from typing import Any, NamedTuple

import keras


class Landscape(NamedTuple):
    """A potential at one context, as two functions of the position."""

    energy: Any
    force: Any


@keras.saving.register_keras_serializable(package="orrery")
class Potential(keras.layers.Layer):
    """The base of potential energies `V(q; c)`.

    A potential has two methods: `energy(q, context=None)`, which maps positions
    `(..., n)` to energies `(...)`, and `force(q, context=None)`, their negative
    gradient `(..., n)`, written as a formula. So no backend has to
    differentiate inside a forward pass. A subclass with these two methods can
    be given to a `HamiltonianBlock`; to be saved with it, it is registered
    with Keras and has a `get_config`. Weights are made in
    `build(q_shape, context_shape=None)` and are float32 under any policy.

    `freeze`, `initial_state` and `step` have defaults that serve any potential
    which treats every token by itself.

    Example:

    ```python
    @keras.saving.register_keras_serializable(package="mine")
    class Quartic(Potential):
        def energy(self, q, context=None):
            return keras.ops.sum(q**4, axis=-1) / 4

        def force(self, q, context=None):
            return -(q**3)


    block = HamiltonianBlock(Quartic())
    ```
    """

    # Whether the context is the block's whole input, token by token, and the
    # potential itself looks at earlier ones.
    reads_sequence = False

    def __init__(self, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})

    def add_weight(self, *args, **kwargs):
        # A block reads the weights outside this layer's own call, where they
        # would be cast to the block's dtype.
        return super().add_weight(*args, **{"autocast": False, **kwargs})

    def energy(self, q, context=None):
        """`V(q; c)`, float tensor `(...)` of positions `(..., n)`."""
        raise NotImplementedError(
            f"{type(self).__name__} lacks the method energy(q, context=None)"
        )

    def force(self, q, context=None):
        """`-grad_q V(q; c)`, float tensor `(..., n)`."""
        raise NotImplementedError(
            f"{type(self).__name__} lacks the method force(q, context=None)"
        )

    def build(self, q_shape, context_shape=None):
        self.built = True

    def call(self, q, context=None):
        return self.energy(q, context)

    def freeze(self, context=None):
        """The `Landscape` at a context that the steps of a block share."""
        return Landscape(
            lambda q: self.energy(q, context), lambda q: self.force(q, context)
        )

    def initial_state(self, batch_size, max_length):
        """What `step` remembers of earlier tokens: nothing."""
        return ()

    def step(self, context, state, index):
        """The `Landscape` of one token at position `index`, and the state."""
        return self.freeze(context), state

    def compute_output_shape(self, q_shape, context_shape=None):
        return q_shape[:-1]
