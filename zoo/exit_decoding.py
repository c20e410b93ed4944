"""One token at a time through a language model with exits."""

from keras import ops

from .._checks import check_integer, check_real
from ..layers.early_exit import least_confident, part_of

POLICIES = ("propagate", "defer")
# Of the rows of a batch: for how many the last block can be run.
SHARES = (1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4)
# Below every threshold.
NOT_AT_ALL = -1.0


class ExitDecoder:
    """Steps of an `EarlyExitLM` that end at the exit a token leaves by.

    It has what `generate` asks of a model: `initial_state`, `step`,
    `vocabulary_size` and the variables; `read` takes in a prompt, at full
    depth. All rows of a batch are at the same position. The last block is run
    for the rows that go on alone, and as many others as make up the next of a
    few numbers, for which there are compiled shapes; blocks before it are
    skipped where every row leaves. With a `capacity` the `ceil(capacity B)`
    least confident rows go on, whatever the threshold.

    Args:
        model: a built `EarlyExitLM` of at least two blocks.
        policy: what the deeper layers later see of a token that has left.
            `"propagate"`: keys and values of the state at its exit.
            `"defer"`: what they would have seen. The states at the first exit
            wait, and the next time that a row goes on they go with it, in one
            pass, of a power of two of tokens or `window`. A window of tokens
            that all have left forces a pass. Exact: the outputs are those of
            `route(tokens, "both")`. Two blocks only.
        capacity: float in (0, 1] or `None`; for `"propagate"`.
        window: int, for `"defer"`. Defaults to `8`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    # How many tokens of a prompt `generate` may read at a time.
    tokens_per_read = 8

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
        self.vocabulary_size = model.vocabulary_size

    @property
    def trainable_variables(self):
        return self.model.trainable_variables

    @property
    def non_trainable_variables(self):
        return self.model.non_trainable_variables

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

    def step(self, tokens, state, index, whole=None):
        """Logits `(B, 1, V)` after tokens `(B, 1)` at `index`, and the state.

        `state["exit"]`, int32 `(B,)`, tells where each row has left. Rows that
        are `whole`, bool `(B,)`, go on whatever their confidence; with a
        capacity, before all others.
        """
        model, caches = self.model, list(state["caches"])
        h, first = model.token_embedding(tokens), model.blocks[0]
        for depth, layer in enumerate(model.decoder_layers[:first]):
            previous = h
            h, caches[depth] = layer.step(h, caches[depth], index)
        confidence, z = self._look_out(h, previous, 0)
        if whole is not None:
            confidence = ops.where(whole, NOT_AT_ALL, confidence)
        gone = model.routers[0].leaves(confidence)
        left = ops.zeros_like(state["exit"])
        state = {**state, "caches": tuple(caches), "exit": left}
        if self.policy == "defer":
            return self._defer(h, gone, z, state, index)
        if self.capacity is None:
            out = self._on(1, h, gone, (z, left), caches, index, whole)
        else:
            count = part_of(h.shape[0], self.capacity)
            gone = ~least_confident(confidence, count)[2]
            out = self._some_rows(1, count, h, gone, (z, left), caches, index)
        (z, left), entries = out
        for depth, entry in enumerate(entries, first):
            mixer = model.decoder_layers[depth].mixer
            caches[depth] = mixer.write(caches[depth], entry, index)
        return z, {**state, "caches": tuple(caches), "exit": left}

    def _look_out(self, h, previous, exit):
        """The confidences `(B,)` at an exit, and a function to its logits.

        A row by itself needs these only if it leaves, as a rule.
        """
        model, logits = self.model, None
        if h.shape[0] > 1 or model.routers[exit].needs_logits:
            logits = model.exit_logits(h, exit)
        confidence = model.compute_confidence(h, previous, exit, logits)[:, 0]
        return (
            confidence,
            lambda: model.exit_logits(h, exit) if logits is None else logits,
        )

    # What follows looks at caches and writes none: it runs in conditionals.
    def _on(self, block, h, gone, out, caches, index, whole):
        """From `block` on, for the rows that are not gone.

        Args:
            block: int, the next block.
            h: `(B, 1, d)`, the state before it; of who is gone, at its exit.
            gone: bool `(B,)`.
            out: of who is gone, a function to logits `(B, 1, V)`, and the exit
                `(B,)`.
            caches: of all layers.
            index: int, the position.
            whole: bool `(B,)`, who leaves at no exit, or `None`.

        Returns:
            The logits and exits of all, and the entries of all layers from
            `block` on.
        """
        batch, counts = h.shape[0], []
        if block == len(self.model.blocks) - 1:
            counts = sorted({part_of(batch, share) for share in SHARES})
            counts = [count for count in counts if count < batch]
        rest = h, gone, out, caches, index
        staying = ops.sum(ops.cast(~gone, "int32"))
        return ops.switch(
            sum(ops.cast(staying > count, "int32") for count in (0, *counts)),
            [
                lambda: ((out[0](), out[1]), self._entries(block, h, index)),
                *(
                    lambda count=count: self._some_rows(block, count, *rest)
                    for count in counts
                ),
                lambda: self._all_rows(block, *rest, whole),
            ],
        )

    def _layers(self, block):
        """Those from a block on."""
        model = self.model
        return [*enumerate(model.decoder_layers)][sum(model.blocks[:block]) :]

    def _entries(self, block, h, index):
        """Of all layers from `block` on, for states that go no further."""
        return [layer.entry(h, index) for _, layer in self._layers(block)]

    def _all_rows(self, block, h, gone, out, caches, index, whole):
        model, entries = self.model, []
        for depth, layer in self._layers(block)[: model.blocks[block]]:
            previous = h
            deeper, entry = layer.look(h, caches[depth], index)
            entries.append(entry)
            h = _keep(gone, h, deeper)
        left = ops.where(gone, out[1], block)
        if block == len(model.blocks) - 1:
            z = _either(gone, out[0], lambda: model.exit_logits(h, block))
            return (z, left), entries
        confidence, z = self._look_out(h, previous, block)
        if whole is not None:
            confidence = ops.where(whole, NOT_AT_ALL, confidence)
        out = lambda before=out[0]: _either(gone, before, z), left
        leaves = model.routers[block].leaves(confidence)
        out, deeper = self._on(
            block + 1,
            h,
            ops.logical_or(gone, leaves),
            out,
            caches,
            index,
            whole,
        )
        return out, [*entries, *deeper]

    def _some_rows(self, block, count, h, gone, out, caches, index):
        """To the end, for `count` rows with all that stay among them."""
        model, last = self.model, len(self.model.blocks) - 1
        rows, rank, _ = least_confident(ops.cast(gone, "int32"), count)
        deep, entries = ops.take(h, rows, axis=0), []
        for depth, layer in self._layers(block):
            past = layer.mixer.take_rows(caches[depth], rows)
            deep, mine = layer.look(deep, past, index)
            mine = layer.mixer.take_rows(mine, rank)
            pairs = zip(layer.entry(h, index), mine, strict=True)
            entries.append(tuple(_keep(gone, *pair) for pair in pairs))
        z = _either(
            gone,
            out[0],
            lambda: ops.take(model.exit_logits(deep, last), rank, axis=0),
        )
        return (z, ops.where(gone, out[1], last)), entries

    def _defer(self, h, gone, logits, state, index):
        """The token waits, or goes on with all that wait.

        In a pass of 1, 2, 4, ... tokens or the window, whichever holds them.
        """
        first, hidden = self.model.blocks[0], state["hidden"]
        hidden = ops.slice_update(hidden, (0, index, 0), h)
        waiting = state["waiting"] + 1
        longest = min(self.window, hidden.shape[1])
        lengths = [2**k for k in range(longest.bit_length()) if 2**k < longest]
        lengths.append(longest)
        caches = state["caches"][first:]
        # Where anything can be written.
        region = ops.maximum(index - longest + 1, 0)

        def held():
            return [
                tuple(
                    ops.slice(
                        part,
                        (0, region, 0),
                        (part.shape[0], longest, part.shape[2]),
                    )
                    for part in cache
                )
                for cache in caches
            ]

        def fill(length):
            start = ops.maximum(index - length + 1, 0)
            batch, _, dim = hidden.shape
            deep = ops.slice(hidden, (0, start, 0), (batch, length, dim))
            written = []
            for (_, layer), cache, old in zip(
                self._layers(1), caches, held(), strict=True
            ):
                deep, entry = layer.look(deep, cache, start)
                written.append(
                    tuple(
                        ops.slice_update(part, (0, start - region, 0), new)
                        for part, new in zip(old, entry, strict=True)
                    )
                )
            deep = ops.slice(deep, (0, index - start, 0), (batch, 1, dim))
            out = _either(
                gone, logits, lambda: self.model.exit_logits(deep, -1)
            )
            left = ops.where(gone, state["exit"], 1)
            return out, left, ops.zeros_like(waiting), written

        goes_on = ops.logical_or(ops.any(~gone), waiting >= longest)
        choice = 1 + sum(
            ops.cast(waiting > length, "int32") for length in lengths[:-1]
        )
        out, left, waiting, written = ops.switch(
            ops.where(goes_on, choice, 0),
            [
                lambda: (logits(), state["exit"], waiting, held()),
                *(lambda length=length: fill(length) for length in lengths),
            ],
        )
        caches = list(state["caches"])
        for (depth, layer), entry in zip(self._layers(1), written, strict=True):
            caches[depth] = layer.mixer.write(caches[depth], entry, region)
        return out, {
            "caches": tuple(caches),
            "exit": left,
            "hidden": hidden,
            "waiting": waiting,
        }


def _either(gone, old, new):
    """`old()` in the rows that are gone, `new()` elsewhere."""
    if gone.shape[0] == 1:
        return ops.cond(gone[0], old, new)
    return _keep(gone, old(), new())


def _keep(gone, old, new):
    """`old` in the rows that are gone, or in their heads; `new` elsewhere."""
    gone = ops.repeat(gone, old.shape[0] // gone.shape[0])
    return ops.where(gone[:, None, None], old, new)
