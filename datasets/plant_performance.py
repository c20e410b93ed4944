"""What a run of the plant costs, and how clean its water is."""

import numpy as np

from .asm1 import (
    SI,
    SND,
    SNH,
    SNO,
    SOLIDS,
    SS,
    XBA,
    XBH,
    XI,
    XND,
    XP,
    XS,
    suspended_solids,
)
from .bsm1 import split
from .influent import FLOW, PER_DAY

# Of the effluent, g/m3.
LIMITS = {"COD": 100.0, "TN": 18.0, "SNH": 4.0, "TSS": 30.0, "BOD5": 10.0}
# Reactors with less oxygen transfer, 1/d, must be stirred.
STIRRED = 20.0


def effluent_quality(plant, effluent):
    """What is measured in the effluent, g/m3, from concentrations `(13, ...)`.

    Returns:
        A dict of arrays: `TSS`, `COD`, `BOD5`, `SNKj` (Kjeldahl nitrogen),
        `SNO`, `SNH` and `TN` (total nitrogen).
    """
    c, sludge = effluent, plant.sludge
    biomass = c[XBH] + c[XBA]
    kjeldahl = c[SNH] + c[SND] + c[XND] + sludge.nitrogen_biomass * biomass
    kjeldahl = kjeldahl + sludge.nitrogen_products * (c[XP] + c[XI])
    living = (1 - sludge.inert_fraction) * biomass
    return {
        "TSS": suspended_solids(c),
        "COD": c[SS] + c[SI] + sum(c[j] for j in SOLIDS),
        "BOD5": 0.25 * (c[SS] + c[XS] + living),
        "SNKj": kjeldahl,
        "SNO": c[SNO],
        "SNH": c[SNH],
        "TN": c[SNO] + kjeldahl,
    }


def plant_performance(plant, run, start=7.0, stop=14.0):
    """The indices of the benchmark over a part of a run.

    The effluent quality index is the pollution that leaves, kg/d,

        EQI = mean of (2 TSS + COD + 30 SNKj + 10 SNO + 2 BOD5) Qe / 1000;

    the operational cost index sums up energy and sludge,

        OCI = AE + PE + 5 SP + ME.

    Args:
        plant: a `BSM1Plant`.
        run: dict, as `simulate_plant` returns it.
        start: float, d, where the evaluation begins. Defaults to `7.0`.
        stop: float, d, where it ends. Defaults to `14.0`.

    Returns:
        A dict of floats: `EQI` (kg/d), `OCI`, energy for aeration `AE`, pumping
        `PE` and mixing `ME` (kWh/d), sludge that is made `SP` (kg/d), and
        `above <name>`, the share of time at which the effluent exceeds the
        limit of each of `LIMITS`.

    Raises:
        ValueError: if the run does not cover the time, or it is empty.

    Reference:
        - [Alex et al., 2018](https://github.com/wwtmodels/Benchmark-Simulation-Models)
    """
    first, last = round(start * PER_DAY), round(stop * PER_DAY)
    if not 0 <= first < last < len(run["states"]):
        raise ValueError(
            "`start` and `stop` must lie in the run, 0 to "
            f"{(len(run['states']) - 1) / PER_DAY:g} d, in this order. "
            f"Received: start={start!r}, stop={stop!r}"
        )
    states = run["states"][first : last + 1].T
    transfer, recycle = run["controls"][first:last].T
    leaves = run["influent"][first : last + 1, FLOW] - plant.wasted
    effluent = effluent_quality(plant, plant.effluent(states))
    pollution = 2 * effluent["TSS"] + effluent["COD"]
    pollution = pollution + 30 * effluent["SNKj"] + 10 * effluent["SNO"]
    pollution = pollution + 2 * effluent["BOD5"]
    volumes = np.array(plant.volumes)
    given = np.array([*plant.transfer, 0.0])[:, None] * np.ones(len(transfer))
    given[-1] = transfer
    aeration = plant.saturation / 1800 * (volumes @ given).mean()
    pumping = 0.004 * recycle.mean() + 0.008 * plant.returned
    pumping += 0.05 * plant.wasted
    mixing = 24 * 0.005 * (volumes @ (given < STIRRED)).mean()
    held = suspended_mass(plant, states)
    wasted = suspended_solids(plant.underflow(states)) * plant.wasted
    days = (last - first) / PER_DAY
    sludge = ((held[-1] - held[0]) / days + _mean(wasted)) / 1000
    return {
        "EQI": float(_mean(pollution * leaves) / 1000),
        "OCI": float(aeration + pumping + 5 * sludge + mixing),
        "AE": float(aeration),
        "PE": float(pumping),
        "ME": float(mixing),
        "SP": float(sludge),
        **{
            f"above {name}": float(_mean(effluent[name] > limit))
            for name, limit in LIMITS.items()
        },
    }


def suspended_mass(plant, states):
    """Suspended solids in reactors and settler, g, of states `(145, ...)`."""
    tanks, sludge, _ = split(states)
    in_tanks = np.tensordot(np.array(plant.volumes), suspended_solids(tanks), 1)
    layer = plant.settler.area * plant.settler.height
    return in_tanks + layer * sludge.sum(axis=0)


def _mean(values):
    """Over time, from samples at both ends of it."""
    return (0.5 * (values[0] + values[-1]) + values[1:-1].sum()) / (
        len(values) - 1
    )
