"""Does a simulated plant lose or gain anything on its way?"""

import numpy as np

from .asm1 import COMPONENTS, SO, SOLUBLE, suspended_solids
from .bsm1 import split
from .plant_performance import suspended_mass
from .stiff_path import stiff_path

BALANCES = (*(COMPONENTS[j] for j in SOLUBLE), "TSS")


def held(plant, states):
    """What the plant holds, g, `(8, ...)`: each soluble, and solids."""
    tanks, _, solubles = split(states)
    layer = plant.settler.area * plant.settler.height
    in_tanks = np.tensordot(
        np.array(plant.volumes), tanks[list(SOLUBLE)].swapaxes(0, 1), 1
    )
    return np.concatenate(
        [
            in_tanks + layer * solubles.sum(axis=1),
            suspended_mass(plant, states)[None],
        ]
    )


def gained(plant, state, controls, disturbances):
    """What comes in, less what leaves, and what is made, g/d, `(8,)`."""
    tanks, _, _ = split(state)
    volumes, inflow = np.array(plant.volumes), disturbances[-1]
    made = plant.sludge.stoichiometry().T @ plant.sludge.rates(tanks)
    transfer = np.array([*plant.transfer, controls[0]])
    made[SO] += transfer * (plant.saturation - tanks[SO])
    flux = inflow * disturbances[:-1] + made @ volumes
    flux -= (inflow - plant.wasted) * plant.effluent(state)
    flux -= plant.wasted * plant.underflow(state)
    return np.append(flux[list(SOLUBLE)], suspended_solids(flux))


def balance_errors(plant, state, controls, influent, days, rtol=1e-8):
    """Integrates the fluxes beside the plant and compares with what it holds.

    The plant-wide balances of single solids do not close in this model while
    anything changes: they leave the settler as they are fed, however old the
    sludge in it is. Those of each soluble and of suspended solids do. Water is
    not in the table: volumes are constant, and what comes in leaves at once.

    Args:
        plant: a `BSM1Plant`.
        state: array `(145,)`, at the beginning.
        controls: array `(2,)`, held.
        influent: function of the time (d) to the disturbances `(14,)`.
        days: float > 0.
        rtol: float > 0, of the integration. Defaults to `1e-8`.

    Returns:
        A dict from the names of `BALANCES` to what is missing, over what the
        plant holds or, if more, what went through it.
    """

    def rate(time, both):
        d = influent(time)
        return np.concatenate(
            [
                plant.rate(both[:-8], controls, d),
                gained(plant, both[:-8], controls, d),
            ]
        )

    def jacobian(time, both):
        # The fluxes enter nothing, and their own error is seen in a step.
        matrix = np.zeros((len(both), len(both)))
        matrix[:-8, :-8] = plant.jacobian(both[:-8], controls, influent(time))
        return matrix

    first = held(plant, np.asarray(state))
    tolerance = np.concatenate([np.full(len(state), 1e-8), 1e-8 * first + 1e-6])
    end = stiff_path(
        rate,
        jacobian,
        np.concatenate([state, np.zeros(8)]),
        (0.0, days),
        rtol=rtol,
        atol=tolerance,
    )[-1]
    last = held(plant, end[:-8])
    scale = np.maximum(np.maximum(first, last), np.abs(end[-8:]))
    missing = np.abs(last - first - end[-8:]) / scale
    return dict(zip(BALANCES, missing.tolist(), strict=True))
