"""Who leaves at which exit of a language model, for whole texts at once."""

import itertools
import zlib

import keras
import numpy as np
from keras import ops

from .._checks import check_integer, check_real
from ..layers.early_exit import (
    gather_tokens,
    least_confident,
    part_of,
    scatter_tokens,
)
from ..metrics.compute_cost import exit_compute_cost
from .exit_measures import measure_route
from .language_model import LanguageModel

POLICIES = ("both", "propagate", "rows", "capacity")


RISKS = {"kind", "policy", "tokens_per_window", "weights", "table"}


def fingerprint(model):
    """A number that changes with the weights, thresholds aside; an int."""
    digest = 0
    for weight in model.weights:
        # Thresholds and counters are scalars, seeds integers.
        if len(weight.shape) and "float" in str(weight.dtype):
            values = ops.convert_to_numpy(ops.cast(weight, "float32"))
            digest = zlib.crc32(np.ascontiguousarray(values), digest)
    return digest


def check_risks(risks):
    """Refuse what `calibrate` has not made."""
    if risks is None:
        return
    if not isinstance(risks, dict) or set(risks) != RISKS:
        raise ValueError(
            "`risks` must be a table that `exit_fitting.calibrate` has left in "
            f"a model, a dict of {sorted(RISKS)}. Received: {risks!r}"
        )


@keras.saving.register_keras_serializable(package="orrery")
class ExitRoutingModel(LanguageModel):
    """What `EarlyExitLM` does with its exits outside training.

    A subclass has `token_embedding`, `decoder_layers`, `exit_norms`,
    `exit_dropout`, `heads`, `routers`, and the sizes of its `blocks`.
    """

    # === Exits ===
    @property
    def exit_depths(self):
        """How many layers lie below each exit."""
        return tuple(itertools.accumulate(self.blocks))

    @property
    def thresholds(self):
        """The thresholds that hold now, a float or `None` per exit."""
        return [router.threshold for router in self.routers]

    def set_threshold(self, threshold):
        """Change the thresholds: one for all exits, or a list."""
        levels = threshold
        if not isinstance(threshold, (list, tuple)):
            levels = [threshold] * len(self.routers)
        if len(levels) != len(self.routers):
            raise ValueError(
                f"`threshold` must be one number or {len(self.routers)}. "
                f"Received: {threshold!r}"
            )
        for router, level in zip(self.routers, levels, strict=True):
            router.set_threshold(level)

    def exit_logits(self, hidden, exit=0):
        """Logits `(B, N, V)` of an exit from the state before it."""
        head = self.heads[exit if len(self.heads) > 1 else 0]
        return head(self.exit_norms[exit](hidden))

    def leave(
        self, hidden, exit, targets=None, sample_weight=None, training=False
    ):
        """As `exit_logits`, with dropout; given targets, losses `(B, N)`.

        The mean of these, weighted by `sample_weight` `(B, N)`, is added to
        the losses. It has a gradient in training alone.
        """
        head = self.heads[exit if len(self.heads) > 1 else 0]
        hidden = self.exit_dropout(
            self.exit_norms[exit](hidden), training=training
        )
        return head(hidden, targets, sample_weight, training=training)

    def leave_together(self, exits, targets, training=True):
        """The losses `(B, N)` of the last of several exits, all being added.

        Args:
            exits: list of triples, rising: a state `(B, N, d)`, the index of
                its exit, and the weights of its losses, `(B, N)`.
            targets: int tensor `(B, N)`.
            training: bool.
        """
        # A head is called once: under JAX's `fit` the losses that a layer adds
        # are dropped when it is called again (Keras 3.15).
        groups = {}
        for hidden, exit, weight in exits:
            h = self.exit_dropout(
                self.exit_norms[exit](hidden), training=training
            )
            head = exit if len(self.heads) > 1 else 0
            groups.setdefault(head, []).append((h, weight))
        for head, group in groups.items():
            hidden, weights = zip(*group, strict=True)
            nll = self.heads[head](
                ops.concatenate(hidden, axis=0),
                ops.concatenate([targets] * len(group), axis=0),
                # The mean is over as many times the tokens.
                ops.concatenate(weights, axis=0) * len(group),
                training=training,
            )
        return nll[-ops.shape(targets)[0] :]

    def compute_confidence(self, hidden, previous=None, exit=0, logits=None):
        """The router's confidence `(B, N)` in the state before an exit.

        Args:
            hidden: float tensor `(B, N, d)`.
            previous: float tensor `(B, N, d)`, the state one layer below, for
                `"state_similarity"`.
            exit: int, which exit. Defaults to the first.
            logits: float tensor `(B, N, V)`, the exit's, if they are there.
        """
        router = self.routers[exit]
        if logits is None and router.needs_logits:
            logits = self.exit_logits(hidden, exit)
        seen = hidden
        if router.confidence == "learned":
            seen = self.exit_norms[exit](hidden)
        return router.measure(seen, logits, previous)

    def set_risk(self, alpha, policy="propagate"):
        """Take the threshold that was calibrated for a risk.

        Args:
            alpha: float, one of those in the table `risks` that `calibrate`
                left; where none was feasible for it, nobody leaves.
            policy: what is going to run, `"propagate"` or `"both"`, which is
                an `ExitDecoder`'s `"defer"`. Defaults to `"propagate"`.

        Returns:
            The row of the table, a dict.

        Raises:
            ValueError: for a risk that is not in the table, a table of
                another policy, or of weights that have changed since.
        """
        rows = {} if self.risks is None else self.risks["table"]
        known = {row["alpha"]: row for row in rows}
        if known and policy != self.risks["policy"]:
            raise ValueError(
                f"`policy` must be {self.risks['policy']!r}, which the "
                f"thresholds were calibrated for. Received: {policy!r}"
            )
        if alpha not in known:
            raise ValueError(
                f"`alpha` must be one of {sorted(known)}, which were "
                "calibrated; see orrery.zoo.exit_fitting.calibrate. Received: "
                f"{alpha}"
            )
        if self.risks["weights"] != fingerprint(self):
            raise ValueError(
                "`alpha` was calibrated for other weights than the model has "
                "now: calibrate again."
            )
        self.set_threshold(known[alpha]["threshold"])
        return dict(known[alpha])

    # === Whole texts ===
    def exit_states(self, tokens):
        """The state `(B, N, d)` at every exit, and that one layer below."""
        h, states = self.token_embedding(tokens), []
        for depth, layer in enumerate(self.decoder_layers, 1):
            previous, h = h, layer(h)
            if depth in self.exit_depths:
                states.append((h, previous))
        return states

    def forward_to_hidden(self, tokens, depth=None):
        """The state `(B, N, d)` after `depth` layers, or at the first exit."""
        depth = self._depth(depth)
        h = self.token_embedding(tokens)
        for layer in self.decoder_layers[:depth]:
            h = layer(h)
        return h

    def forward_upper(self, hidden, positions=None, depth=None):
        """The state `(B, N, d)` after all layers, from that after `depth`.

        Args:
            hidden: float tensor `(B, N, d)`.
            positions: int tensor `(B, N)`, see `CausalSelfAttention`.
            depth: int, or `None` for the first exit.
        """
        for layer in self.decoder_layers[self._depth(depth) :]:
            hidden = layer(hidden, positions)
        return hidden

    def _depth(self, depth):
        """A number of layers, by default those below the first exit."""
        if depth is None:
            return self.blocks[0]
        check_integer("depth", depth, 0)
        if depth > self.num_layers:
            raise ValueError(
                f"`depth` must be at most num_layers={self.num_layers}. "
                f"Received: depth={depth}"
            )
        return depth

    def forward_all_layers(self, tokens):
        """The logits after every layer, by the next exit: a list of L."""
        h, logits = self.token_embedding(tokens), []
        for depth, layer in enumerate(self.decoder_layers, 1):
            h = layer(h)
            exit = sum(below < depth for below in self.exit_depths)
            logits.append(self.exit_logits(h, exit))
        return logits

    def forward_train(self, tokens):
        """What a loss may be put on.

        Returns:
            A dict: `shallow_logits` `(B, N, V)` of the first exit,
            `deep_logits` of the last, `exit_logits`, the list of all;
            `confidence` `(B, N)` at the first exit, without gradient, and
            `shallow_ratio`, the share of tokens that would leave there.
        """
        self.require_exit("forward_train")
        states = self.exit_states(tokens)
        logits = [
            self.exit_logits(h, exit) for exit, (h, _) in enumerate(states)
        ]
        confidence = ops.stop_gradient(
            self.compute_confidence(*states[0], 0, logits[0])
        )
        leaves = self.routers[0].leaves(confidence)
        return {
            "shallow_logits": logits[0],
            "deep_logits": logits[-1],
            "exit_logits": logits,
            "confidence": confidence,
            "shallow_ratio": ops.mean(ops.cast(leaves, "float32")),
        }

    def route(self, tokens, policy="propagate", capacity=None):
        """The logits with which every token leaves.

        Args:
            tokens: int tensor `(B, N)`.
            policy: what the deeper layers see of a token that has left.
                `"both"`: its deeper states, computed for it, of which the
                output makes no use. `"propagate"`: in each deeper layer the
                state at its exit. `"rows"`: as that, and of the B tokens at a
                position the `ceil(capacity B)` least confident go on at every
                exit. `"capacity"`: nothing; of each row the
                `ceil(capacity N)` least confident go on at the first exit, to
                the end: which they are depends on later tokens, so this one is
                not causal.
            capacity: float in (0, 1], for the last two policies.

        Returns:
            A dict: `logits` `(B, N, V)`; `exit`, int32 `(B, N)`, at which exit
            a token left; `confidence`, float32 `(B, N)`, at the first.

        Raises:
            ValueError: for another policy, a capacity that is out of its range,
                missing or of no use, or a model of one block.
        """
        if policy not in POLICIES:
            raise ValueError(
                f"`policy` must be one of {POLICIES}. Received: {policy!r}"
            )
        if (capacity is None) == (policy in ("rows", "capacity")):
            raise ValueError(
                "`capacity` goes with the policies 'rows' and 'capacity'. "
                f"Received: policy={policy!r}, capacity={capacity}"
            )
        if capacity is not None:
            check_real("capacity", capacity, "in (0, 1]", lambda c: 0 < c <= 1)
        self.require_exit("route")
        if policy == "capacity":
            return self._route_some(tokens, capacity)
        h, last = self.token_embedding(tokens), len(self.blocks) - 1
        gone, depth = ops.zeros(ops.shape(tokens), "bool"), 0
        for exit, size in enumerate(self.blocks):
            for layer in self.decoder_layers[depth : depth + size]:
                previous, deeper = h, layer(h)
                h = deeper
                if policy != "both":
                    h = ops.where(gone[..., None], previous, deeper)
            depth += size
            z = self.exit_logits(h, exit)
            if exit == 0:
                logits, left = z, ops.zeros_like(tokens, dtype="int32")
            else:
                logits = ops.where(gone[..., None], logits, z)
                left = ops.where(gone, left, exit)
            if exit == last:
                break
            measured = self.compute_confidence(h, previous, exit, z)
            if exit == 0:
                confidence = measured
            leaves = self.routers[exit].leaves(measured)
            if policy == "rows":
                # Who has left is more confident than any who has not.
                among = ops.where(gone, 2.0, measured)
                rank = ops.argsort(ops.argsort(among, axis=0), axis=0)
                leaves = rank >= part_of(ops.shape(tokens)[0], capacity)
            gone = ops.logical_or(gone, leaves)
        return {"logits": logits, "exit": left, "confidence": confidence}

    def _route_some(self, tokens, capacity):
        if tokens.shape[1] == 1 and capacity < 1:
            raise ValueError(
                "`policy='capacity'` chooses among the tokens of a row: of one "
                "alone the one would always go on. Received: tokens of shape "
                f"{tuple(tokens.shape)}, capacity={capacity}"
            )
        h = self.forward_to_hidden(tokens, self.blocks[0] - 1)
        previous, h = h, self.decoder_layers[self.blocks[0] - 1](h)
        shallow = self.exit_logits(h, 0)
        confidence = self.compute_confidence(h, previous, 0, shallow)
        count = part_of(tokens.shape[1], capacity)
        indices, rank, goes_on = least_confident(confidence, count)
        deep = self.forward_upper(gather_tokens(h, indices), indices)
        last = len(self.blocks) - 1
        logits = scatter_tokens(
            self.exit_logits(deep, last), shallow, rank, goes_on
        )
        left = ops.where(goes_on, last, 0)
        return {
            "logits": logits,
            "exit": ops.cast(left, "int32"),
            "confidence": confidence,
        }

    def forward_inference(self, tokens, policy="both", capacity=None):
        """Routed logits `(B, N, V)`, and what they cost, a dict of floats.

        The dict has `mean_confidence`, `shallow_ratio` (the share that left
        before the last exit) and three fractions of full depth:
        `compute_cost`, of layers alone; `compute_cost_macs`, which counts the
        heads and attention's own products; `compute_cost_executed`, what this
        call has computed.
        """
        routed = self.route(tokens, policy, capacity)
        left = ops.convert_to_numpy(routed["exit"])
        last = len(self.blocks) - 1
        shares = [float((left == exit).mean()) for exit in range(last)]
        context = (tokens.shape[1] + 1) / 2
        cost = self.compute_cost(
            shares,
            {"capacity": "selected", "both": "defer"}.get(policy, "propagate"),
            context,
            every_head=policy == "rows",
        )
        executed = cost["macs_executed"]
        if policy == "capacity":
            executed = self.compute_cost(
                shares, "selected", context, every_head=True
            )["macs_with_head"]
        confidence = ops.convert_to_numpy(routed["confidence"])
        return routed["logits"], {
            "mean_confidence": float(confidence.mean()),
            "shallow_ratio": sum(shares),
            "compute_cost": cost["layers_only"],
            "compute_cost_macs": cost["macs_with_head"],
            "compute_cost_executed": executed,
        }

    def measure_route(self, tokens, targets, *args, **kwargs):
        """`exit_measures.measure_route`, for callbacks."""
        return measure_route(self, tokens, targets, *args, **kwargs)

    def compute_cost(
        self,
        exit_fractions,
        policy="propagate",
        context=None,
        every_head=False,
    ):
        """`metrics.compute_cost.exit_compute_cost` of this architecture."""
        return exit_compute_cost(
            self.vocabulary_size,
            self.dim,
            self.hidden_dim or 4 * self.dim,
            self.blocks,
            exit_fractions,
            self.confidence,
            policy,
            self.routers[0].units if self.routers else 1,
            self.dim
            // self.num_heads
            * (self.num_key_value_heads or self.num_heads),
            context,
            every_head,
        )

    def require_exit(self, method):
        """Raise a ValueError where there is no exit before the last."""
        if not self.routers:
            raise ValueError(
                f"`{method}` needs an exit before the last: `blocks` must name "
                f"two or more. Received: blocks={self.blocks}"
            )
