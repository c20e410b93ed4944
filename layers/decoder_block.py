"""The pre-norm residual block that every language model here repeats."""

import keras


@keras.saving.register_keras_serializable(package="orrery")
class DecoderBlock(keras.layers.Layer):
    """One step of the residual dynamics of a language model.

    `h <- h + mixer(RMSNorm(h)); h <- h + feedforward(RMSNorm(h))`, with
    dropout on both branches. The mixer moves information between tokens, the
    feed-forward network works on each token alone.

    Args:
        mixer: a layer `(B, N, d) -> (B, N, d)` with the streaming methods
            `initial_state` and `step`.
        feedforward: a layer `(B, N, d) -> (B, N, d)` that treats every token
            by itself.
        dropout: float in `[0, 1)`, rate on both branches. Defaults to 0.

    Call arguments:
        x: float tensor `(B, N, d)`.
        positions: int tensor `(B, N)`, for a mixer that takes it.
        seen: float tensor `(B, N, d)`, likewise; it is normalised as x is.

    Returns:
        float tensor `(B, N, d)`.

    Example:

    ```python
    block = DecoderBlock(CausalSelfAttention(4), MixtureOfExperts(1, 128))
    y = block(keras.random.normal((2, 16, 64)))  # (2, 16, 64)
    ```

    Reference:
        - [Zhang and Sennrich, 2019](https://arxiv.org/abs/1910.07467), RMSNorm
    """

    def __init__(self, mixer, feedforward, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        self.mixer = mixer
        self.feedforward = feedforward
        self.dropout_rate = dropout
        self.mixer_norm = keras.layers.RMSNormalization(
            dtype=self.dtype_policy, name="mixer_norm"
        )
        self.feedforward_norm = keras.layers.RMSNormalization(
            dtype=self.dtype_policy, name="feedforward_norm"
        )
        self.mixer_dropout = keras.layers.Dropout(
            dropout, dtype=self.dtype_policy, name="mixer_dropout"
        )
        self.feedforward_dropout = keras.layers.Dropout(
            dropout, dtype=self.dtype_policy, name="feedforward_dropout"
        )

    def build(self, input_shape):
        self.mixer_norm.build(input_shape)
        self.feedforward_norm.build(input_shape)
        # Restored from a config, the given layers come already built.
        for layer in (self.mixer, self.feedforward):
            if not layer.built:
                layer.build(input_shape)

    def call(self, x, positions=None, seen=None):
        given = {} if positions is None else {"positions": positions}
        if seen is not None:
            given["seen"] = self.mixer_norm(seen)
        y = self.mixer(self.mixer_norm(x), **given)
        x = x + self.mixer_dropout(y)
        y = self.feedforward(self.feedforward_norm(x))
        return x + self.feedforward_dropout(y)

    def initial_state(self, batch_size, max_length):
        """The mixer's streaming state before the first token."""
        return self.mixer.initial_state(batch_size, max_length)

    def step(self, x, state, index):
        """Tokens `(B, M, d)` from position `index` on, without dropout.

        How many at a time is for the mixer to say: attention takes any M.
        """
        y, state = self.mixer.step(self.mixer_norm(x), state, index)
        x = x + y
        return x + self.feedforward(self.feedforward_norm(x)), state

    # For a mixer that has them; see `CausalSelfAttention`.
    def look(self, x, state, index):
        """As `step`, but with what is to be written for a state."""
        y, entry = self.mixer.look(self.mixer_norm(x), state, index)
        x = x + y
        return x + self.feedforward(self.feedforward_norm(x)), entry

    def entry(self, x, index):
        """What `look` would have written, without looking."""
        return self.mixer.entry(self.mixer_norm(x), index)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "mixer": serialize(self.mixer),
            "feedforward": serialize(self.feedforward),
            "dropout": self.dropout_rate,
        }

    @classmethod
    def from_config(cls, config):
        restore = keras.saving.deserialize_keras_object
        return cls(
            **{
                **config,
                "mixer": restore(config["mixer"]),
                "feedforward": restore(config["feedforward"]),
            }
        )
