"""One token at a time through a language model with exits."""

import math

from keras import ops

from .._backend import compile_function
from .._checks import check_integer, check_real
from ..datasets.vocabulary import check_ids
from ..layers.early_exit import least_confident
from .exit_measures import log_probability

POLICIES = ("propagate", "defer")


class ExitDecoder:
    """Steps of an `EarlyExitLM` that end at the exit a token leaves by.

    It has what `generate` asks of a model: `initial_state`, `step`,
    `vocabulary_size` and the variables; `read` takes in a prompt, at full
    depth. All rows of a batch are at the same position. The deeper layers are
    skipped where every row leaves; with a `capacity`, they run for the
    `ceil(capacity B)` least confident rows alone.

    Args:
        model: a built `EarlyExitLM` of at least two blocks.
        policy: what the deeper layers later see of a token that has left.
            `"propagate"`: keys and values of the state at its exit.
            `"defer"`: what they would have seen. The states at the first exit
            are kept, and the next time that a row goes on, the last `window`
            tokens go on with it, in one pass. A window of tokens that all have
            left forces a pass. Exact: the outputs are those of
            `route(tokens, "both")`. Two blocks only.
        capacity: float in (0, 1] or `None`; for `"propagate"`.
        window: int, for `"defer"`. Defaults to `8`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(self, model, policy="propagate", capacity=None, window=8):
        if policy not in POLICIES:
            raise ValueError(
                f"`policy` must be one of {POLICIES}. Received: {policy!r}"
            )
        if capacity is not None:
            check_real("capacity", capacity, "in (0, 1]", lambda c: 0 < c <= 1)
        if policy == "defer" and (len(model.blocks) > 2 or capacity):
            raise ValueError(
                "`policy='defer'` needs two blocks and no capacity. Received: "
                f"blocks={model.blocks}, capacity={capacity}"
            )
        check_integer("window", window, 1)
        model.require_exit("decoding with exits")
        self.model = model
        self.policy = policy
        self.capacity = capacity
        self.window = window
        self._scores = {}
        self.vocabulary_size = model.vocabulary_size
        self.trainable_variables = model.trainable_variables
        self.non_trainable_variables = model.non_trainable_variables

    def initial_state(self, batch_size, max_length):
        """Caches, and where each row has left at the last step.

        For `"defer"` also the states at the exit, and how many wait.
        """
        model = self.model
        state = {
            "caches": model.initial_state(batch_size, max_length),
            "exit": ops.zeros((batch_size,), "int32"),
        }
        if self.policy == "defer":
            shape = batch_size, max_length, model.dim
            state["hidden"] = ops.zeros(shape, model.compute_dtype)
            state["waiting"] = ops.zeros((), "int32")
        return state

    def read(self, tokens, state, index):
        """As `step`, at full depth."""
        model, caches = self.model, list(state["caches"])
        h = model.token_embedding(tokens)
        for depth, layer in enumerate(model.decoder_layers):
            if depth == model.blocks[0] and self.policy == "defer":
                start = (0, index, 0)
                hidden = ops.slice_update(state["hidden"], start, h)
                state = {**state, "hidden": hidden}
            h, caches[depth] = layer.step(h, caches[depth], index)
        last = ops.full_like(state["exit"], len(model.blocks) - 1)
        state = {**state, "caches": tuple(caches), "exit": last}
        return model.exit_logits(h, -1), state

    def score(self, tokens, full_depth=False):
        """The loss of given tokens by the very steps that generate them.

        The loop is compiled once for each shape.

        Args:
            tokens: int array `(B, N)`, N > 1.
            full_depth: bool, whether by `read`, for comparison.

        Returns:
            NumPy arrays `(B, N - 1)`: the negative log-likelihood of tokens 1
            to N - 1, float32, in nats; and the exit it was told at, int32.
        """
        tokens = check_ids(tokens, self.vocabulary_size).astype("int32")
        if tokens.ndim != 2 or tokens.shape[1] < 2:
            raise ValueError(
                "`tokens` must have the shape (batch, length), length at least "
                f"2. Received: {tokens.shape}"
            )
        run = self.read if full_depth else self.step
        if full_depth not in self._scores:

            def loop(tokens):
                batch, length = tokens.shape

                def body(t, carry):
                    state, losses, exits = carry
                    pair = ops.slice(tokens, (0, t), (batch, 2))
                    logits, state = run(pair[:, :1], state, t)
                    nll = -log_probability(logits, pair[:, 1:])
                    left = state["exit"][:, None]
                    return (
                        state,
                        ops.slice_update(losses, (0, t), nll),
                        ops.slice_update(exits, (0, t), left),
                    )

                start = (
                    self.initial_state(batch, length),
                    ops.zeros((batch, length - 1), "float32"),
                    ops.zeros((batch, length - 1), "int32"),
                )
                return ops.fori_loop(0, length - 1, body, start)[1:]

            self._scores[full_depth] = compile_function(
                loop, self.model.variables
            )
        scores = self._scores[full_depth](ops.convert_to_tensor(tokens))
        return tuple(map(ops.convert_to_numpy, scores))

    def step(self, tokens, state, index):
        """Logits `(B, 1, V)` after tokens `(B, 1)` at `index`, and the state.

        `state["exit"]`, int32 `(B,)`, tells where each row has left.
        """
        h = self.model.token_embedding(tokens)
        state = {**state, "exit": ops.zeros_like(state["exit"])}
        gone = ops.zeros(ops.shape(h)[:1], "bool")
        return self._block(0, h, gone, None, state, index)

    def _block(self, exit, h, gone, logits, state, index):
        """Through block `exit`, then out or on. Who is gone stays as it is."""
        model, caches = self.model, list(state["caches"])
        first = sum(model.blocks[:exit])
        for depth in range(first, first + model.blocks[exit]):
            previous, cache = h, caches[depth]
            new, caches[depth] = model.decoder_layers[depth].step(
                h, cache, index
            )
            h = new if exit == 0 else _keep(gone, h, new)
        z = model.exit_logits(h, exit)
        logits = z if logits is None else _keep(gone, logits, z)
        left = (
            state["exit"] if exit == 0 else ops.where(gone, state["exit"], exit)
        )
        state = {**state, "caches": tuple(caches), "exit": left}
        if exit == len(model.blocks) - 1:
            return logits, state
        confidence = model.compute_confidence(h, previous, exit, z)[:, 0]
        leaves = model.routers[exit].leaves(confidence)
        gone = ops.logical_or(gone, leaves)
        if self.policy == "defer":
            return self._defer(h, gone, logits, state, index)
        if self.capacity is not None:
            return self._some_rows(exit, h, confidence, logits, state, index)
        return ops.cond(
            ops.all(gone),
            lambda: (logits, self._remember(exit + 1, h, state, index)),
            lambda: self._block(exit + 1, h, gone, logits, state, index),
        )

    def _remember(self, exit, h, state, index):
        """The caches from block `exit` on, for a state that goes no further."""
        caches = list(state["caches"])
        for depth in range(sum(self.model.blocks[:exit]), len(caches)):
            layer = self.model.decoder_layers[depth]
            caches[depth] = layer.remember(h, caches[depth], index)
        return {**state, "caches": tuple(caches)}

    def _defer(self, h, gone, logits, state, index):
        model, first = self.model, self.model.blocks[0]
        hidden = ops.slice_update(state["hidden"], (0, index, 0), h)
        state = {**state, "hidden": hidden, "waiting": state["waiting"] + 1}
        length = min(self.window, hidden.shape[1])
        start = ops.maximum(index - length + 1, 0)

        def fill():
            caches = list(state["caches"])
            shape = (hidden.shape[0], length, model.dim)
            deep = ops.slice(hidden, (0, start, 0), shape)
            for depth in range(first, len(caches)):
                deep, caches[depth] = model.decoder_layers[depth].step(
                    deep, caches[depth], start
                )
            shape = (hidden.shape[0], 1, model.dim)
            deep = ops.slice(deep, (0, index - start, 0), shape)
            return (
                _keep(gone, logits, model.exit_logits(deep, -1)),
                {
                    **state,
                    "caches": tuple(caches),
                    "exit": ops.where(gone, 0, 1),
                    "waiting": ops.zeros_like(state["waiting"]),
                },
            )

        waits = ops.logical_and(ops.all(gone), state["waiting"] < length)
        return ops.cond(waits, lambda: (logits, state), fill)

    def _some_rows(self, exit, h, confidence, logits, state, index):
        """The rest for a fixed number of rows; keys and values for all."""
        model, caches = self.model, list(state["caches"])
        batch = h.shape[0]
        count = math.ceil(self.capacity * batch)
        rows, rank, chosen = least_confident(confidence, count)
        deep = ops.take(h, rows, axis=0)
        for depth in range(sum(model.blocks[: exit + 1]), len(caches)):
            layer = model.decoder_layers[depth]
            u = _keep(~chosen, h, ops.take(deep, rank, axis=0))
            caches[depth] = layer.remember(u, caches[depth], index)
            deep = layer.step_rows(deep, rows, caches[depth], index)
        last = len(model.blocks) - 1
        z = ops.take(model.exit_logits(deep, last), rank, axis=0)
        state = {
            **state,
            "caches": tuple(caches),
            "exit": ops.where(chosen, last, exit),
        }
        return _keep(~chosen, logits, z), state


def _keep(gone, old, new):
    """`old` in the rows that are gone, `new` in the others."""
    return ops.where(gone[:, None, None], old, new)
