"""What the energies of a language model's blocks do on text."""

import keras
import numpy as np
from keras import ops

from ..datasets.vocabulary import check_ids
from ..layers.hamiltonian import HamiltonianBlock
from ..metrics.energy_drift import EnergyDrift


def energy_tracer(model):
    """What the functions below take in place of a model that is trained on.

    They compile what they run of a model; of a tracer once for all calls.

    Args:
        model: a built language model of `HamiltonianBlock`s, or its tracer.

    Returns:
        The tracer, a `keras.Model`.

    Raises:
        TypeError: if a block is not a `HamiltonianBlock`.
    """
    if isinstance(model, _Traces):
        return model
    for block in model.blocks:
        if not isinstance(block, HamiltonianBlock):
            raise TypeError(
                "`model` must have HamiltonianBlocks only. Received: "
                f"{type(block).__name__}"
            )
    return _Traces(model)


def energy_traces(model, tokens, batch_size=32):
    """Energies of every token along the steps of every block, no dropout.

    Args:
        model: a built language model of `HamiltonianBlock`s, or its
            `energy_tracer`.
        tokens: int array `(n, N)`.
        batch_size: int, rows at a time. Defaults to `32`.

    Returns:
        float32 arrays: the kinetic and the potential energies, both
        `(n, L, N, S + 1)`; the relative change of the momenta over a block,
        `|p_S - p_0| / |p_0|`, `(n, L, N)`; and `dt omega` at the entrance of a
        block, see `step_angle`, `(n, L, N)`.

    Raises:
        ValueError: if an id is out of range, or there is no token.
        TypeError: if a block is not a `HamiltonianBlock`.
    """
    tracer = energy_tracer(model)
    tokens = check_ids(tokens, tracer.model.vocabulary_size)
    if not tokens.size:
        raise ValueError(
            f"`tokens` must not be empty. Received: shape {tokens.shape}"
        )
    columns = tracer.predict(tokens, batch_size=batch_size, verbose=0)
    steps = tracer.model.blocks[0].num_steps + 1
    kinetic, potential, kick, angle = np.split(
        columns, [steps, 2 * steps, 2 * steps + 1], axis=-1
    )
    return kinetic, potential, kick[..., 0], angle[..., 0]


def step_angle(block, q, context, iterations=8):
    """`dt omega`, with `omega^2` the largest curvature of V in units of mass.

    Leapfrog is stable on a spring while this stays below 2. The eigenvalue of
    `M^-1 Hess V`, of largest size, comes from a power iteration on differences
    of the force.

    Args:
        block: a built `HamiltonianBlock`.
        q: float32 tensor `(..., d / 2)`, where to measure.
        context: see `HamiltonianBlock.context`.
        iterations: int, steps of the power iteration. Defaults to `8`.

    Returns:
        float32 tensor `(...)`.
    """
    landscape = block.potential.freeze(context)
    force, size = landscape.force(q), 1e-2
    # Not orthogonal to an axis, nor to their sum.
    direction = ops.ones_like(q) * (
        1.0 + ops.arange(q.shape[-1], dtype="float32")
    )
    for _ in range(iterations):
        norm = ops.norm(direction, axis=-1, keepdims=True)
        direction = size * direction / ops.maximum(norm, 1e-12)
        change = landscape.force(q + direction) - force
        direction = change / block.masses()
    growth = ops.norm(direction, axis=-1) / size
    return block.step_size * ops.sqrt(growth)


def evaluate_energies(model, tokens, batch_size=32, reference=None):
    """How well each block keeps its energy on text, with the controls.

    Args:
        model: a built language model of `HamiltonianBlock`s, or its
            `energy_tracer`.
        tokens: int array `(n, N)`.
        batch_size: int, rows at a time. Defaults to `32`.
        reference: what this function returned for the same tokens at
            initialisation, or `None`.

    Returns:
        A list of dicts of floats, one per block: `drift`, `spread`,
        `spread_ratio` (NaN without a reference) and `shuffled_ratio` as in
        `EnergyDrift`; `potential_share`, the part `Cov(V, E) / Var(E)` of the
        energies' variance over inputs that comes from V, so that a flat
        potential cannot pass; `kick`, the mean of `|p_S - p_0| / |p_0|`;
        `step_angle`, the largest `dt omega` of a token, which must stay below
        2 for leapfrog to be stable; and the bool `collapsed`, whether
        `spread_ratio` is below the block's `spread_floor`, or not finite
        (`False` without a reference).
    """
    tracer = energy_tracer(model)
    kinetic, potential, kick, angle = energy_traces(tracer, tokens, batch_size)
    rows = []
    for block in range(kinetic.shape[1]):
        trace = kinetic[:, block] + potential[:, block]
        spread = reference and reference[block]["spread"]
        metric = EnergyDrift(spread, tracer.model.blocks[block].spread_floor)
        for part in np.array_split(trace, -(-len(trace) // batch_size)):
            metric.update_state(None, part)
        start, wells = (
            part[..., 0].ravel().astype("float64")
            for part in (trace, potential[:, block])
        )
        covariance = np.cov(wells, start)
        rows.append(
            {
                **metric.results(),
                "potential_share": covariance[0, 1] / covariance[1, 1],
                "kick": float(kick[:, block].mean(dtype="float64")),
                "step_angle": float(angle[:, block].max()),
                "collapsed": bool(spread) and metric.collapsed,
            }
        )
    return rows


class _Traces(keras.Model):
    """Columns of kinetic and potential energy, the kick and the angle."""

    def __init__(self, model):
        super().__init__(name="traces")
        self.model = model

    def call(self, tokens):
        """`(B, N)` to `(B, L, N, 2 (S + 1) + 2)`."""
        rows = []
        for block, h in zip(
            self.model.blocks, self.model.trajectory(tokens)[:-1], strict=True
        ):
            context = block.context(h)
            states = block.trajectory(h, context)
            kinetic, potential = block.energies(states, context)
            before, after = states[0][1], states[-1][1]
            kick = ops.norm(after - before, axis=-1) / ops.maximum(
                ops.norm(before, axis=-1), 1e-12
            )
            angle = step_angle(block, states[0][0], context)
            last = ops.stack([kick, angle], axis=-1)
            rows.append(ops.concatenate([kinetic, potential, last], axis=-1))
        return ops.stack(rows, axis=1)
