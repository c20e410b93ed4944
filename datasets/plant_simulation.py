"""Runs of a wastewater plant: weather in, states every 15 minutes out."""

import numpy as np

from .bsm1 import OPEN_LOOP, STATE_NAMES, STATES
from .influent import PER_DAY
from .plant_control import CONTROLLERS, ControlledPlant
from .stiff_path import stiff_path

# What an error is measured by beside the state itself, g/m3: solids in the
# settler count in hundreds and thousands.
SCALE = np.where(np.char.startswith(STATE_NAMES, "TSS"), 1e3, 1.0)


def simulate_plant(
    plant,
    state,
    influent,
    controls=None,
    setpoints=None,
    controllers=CONTROLLERS,
    method="LSODA",
    rtol=1e-6,
    progress=None,
):
    """Integrates a plant under recorded controls or under its controllers.

    Between two rows of the influent the disturbances follow a straight line;
    controls and set-points are held from each row to the next. While they do
    not change, the integrator is not started anew.

    Args:
        plant: a `BSM1Plant`.
        state: array `(145,)` at the first row.
        influent: array `(n + 1, 14)`, 15 minutes a row; see `load_influent`.
        controls: array `(n, 2)`: KLa5 (1/d) and Qa (m3/d). Defaults to `None`:
            those of the open loop or, with `setpoints`, of the controllers.
        setpoints: array `(n, 2)` or `(2,)`: of oxygen in reactor 5 and nitrate
            in reactor 2, g/m3. Defaults to `None`: no controllers.
        controllers: pair of `PIController`, of KLa5 and Qa. Defaults to those
            of the benchmark.
        method: `"LSODA"`, `"BDF"` or `"Radau"`. Defaults to `"LSODA"`.
        rtol: float > 0, allowed error of a step relative to the state, or to
            1 g/m3 (1 kg/m3 of solids in the settler). Defaults to `1e-6`.
        progress: function of the number of rows done, called now and then.
            Defaults to `None`.

    Returns:
        A dict of float64 arrays: `states` `(n + 1, 145)`, `controls` `(n, 2)`,
        means over each 15 minutes, and `influent` `(n + 1, 14)` as given.

    Raises:
        ArithmeticError: if the integrator gives up.
        ImportError: if SciPy is not installed; says how to install it.
        ValueError: if an array is not of the shape described or not finite, a
            control is negative, or both controls and set-points are given.

    Example:
    >>> from orrery.datasets.bsm1 import BSM1Plant
    >>> from orrery.datasets.influent import generated_influent
    >>> plant = BSM1Plant()
    >>> run = simulate_plant(
    ...     plant, plant.steady_state(), generated_influent(days=0.25)
    ... )
    >>> run["states"].shape, run["controls"].shape
    ((25, 145), (24, 2))
    """
    state, influent, held = _checked(state, influent, controls, setpoints)
    steps = len(held)
    controlled = setpoints is not None
    system, scale = plant, SCALE
    if controlled:
        system = ControlledPlant(plant, controllers)
        state = system.start(state, OPEN_LOOP, held[0])
        scale = np.concatenate([SCALE, [100.0, 1e5, 1.0, 1e3]])
    path = np.empty((steps + 1, len(state)))
    path[0] = state
    changes = np.flatnonzero((held[1:] != held[:-1]).any(axis=1)) + 1
    for first, last in zip([0, *changes], [*changes, steps], strict=True):
        rate, jacobian = _between(system, held[first], influent)
        path[first : last + 1] = stiff_path(
            rate,
            jacobian,
            path[first],
            np.arange(first, last + 1) / PER_DAY,
            method,
            rtol,
            rtol * scale,
        )
        if progress is not None:
            progress(last)
    if controlled:
        held = np.diff(path[:, -2:], axis=0) * PER_DAY
    return {
        "states": path[:, :STATES],
        "controls": held,
        "influent": influent,
    }


def _between(system, held, influent):
    """The rate and its Jacobian as functions of time, in days."""

    def weather(time):
        row = min(int(time * PER_DAY), len(influent) - 2)
        part = time * PER_DAY - row
        return influent[row] + part * (influent[row + 1] - influent[row])

    return (
        lambda time, state: system.rate(state, held, weather(time)),
        lambda time, state: system.jacobian(state, held, weather(time)),
    )


def _checked(state, influent, controls, setpoints):
    state = np.asarray(state, "float64")
    influent = np.asarray(influent, "float64")
    if state.shape != (STATES,) or not np.isfinite(state).all():
        raise ValueError(
            f"`state` must be {STATES} finite numbers. Received: shape "
            f"{state.shape}"
        )
    if influent.ndim != 2 or influent.shape[1] != 14 or len(influent) < 2:
        raise ValueError(
            "`influent` must be of shape (n + 1, 14), two rows at least. "
            f"Received: shape {influent.shape}"
        )
    if not (np.isfinite(influent).all() and (influent >= 0).all()):
        raise ValueError("`influent` must be finite and not negative.")
    steps = len(influent) - 1
    if controls is not None and setpoints is not None:
        raise ValueError(
            "Give `controls` or `setpoints`, not both: controllers choose the "
            "controls."
        )
    name, held = "controls", controls
    if setpoints is not None:
        name, held = "setpoints", setpoints
    held = OPEN_LOOP if held is None else np.asarray(held, "float64")
    if held.shape not in ((2,), (steps, 2)):
        raise ValueError(
            f"`{name}` must be of shape (2,) or ({steps}, 2), for each row of "
            f"the influent but the last. Received: shape {held.shape}"
        )
    if not (np.isfinite(held).all() and (held >= 0).all()):
        raise ValueError(f"`{name}` must be finite and not negative.")
    return state, influent, np.broadcast_to(held, (steps, 2))
