"""Benchmark Simulation Model no. 1: a wastewater plant of 145 states."""

import dataclasses

import numpy as np

from .asm1 import (
    ASM1,
    COMPONENTS,
    PARTICULATE,
    SO,
    SOLIDS,
    SOLUBLE,
    suspended_solids,
)
from .stiff_path import stiff_path
from .takacs_settler import LAYERS, TakacsSettler

REACTORS = 5
STATES = 145
# Where in the state: reactor 5, the layers' sludge, and their solubles.
_LAST, _SLUDGE, _SOLUBLES = slice(52, 65), slice(65, 75), slice(75, STATES)
_PARTICULATE = np.array(PARTICULATE)
# Suspended solids of each component.
_TSS = suspended_solids(np.eye(13))
# Flow-weighted means of the dry weather, and their flow, m3/d.
CONSTANT_INFLUENT = np.array(
    [30, 69.5, 51.2, 202.32, 28.17, 0, 0, 0, 0, 31.56, 6.95, 10.59, 7, 18_446.0]
)
# Open loop: oxygen transfer of reactor 5, 1/d, and internal recycle, m3/d.
OPEN_LOOP = np.array([84.0, 55_338.0])
CONTROLS = ("KLa5", "Qa")
DISTURBANCES = (*COMPONENTS, "Q")
STATE_NAMES = (
    *(f"{name}{r + 1}" for r in range(REACTORS) for name in COMPONENTS),
    *(f"TSS layer {k + 1}" for k in range(LAYERS)),
    *(f"{COMPONENTS[j]} layer {k + 1}" for j in SOLUBLE for k in range(LAYERS)),
)


@dataclasses.dataclass(frozen=True)
class BSM1Plant:
    """Five reactors of activated sludge and a settler, with two recycles.

    Two anoxic reactors, three aerated ones, a settler of ten layers: water that
    is let in is freed of organics by heterotrophs, its ammonia turns to nitrate
    in the aerated reactors, and nitrate, led back by the internal recycle, to
    nitrogen in the anoxic ones. The state `(145,)`: reactors 1 to 5, each with
    the thirteen components of `ASM1` (g/m3, alkalinity mol/m3); suspended
    solids of the settler's layers from the bottom to the top; then each soluble
    of the layers, likewise. The controls u are the oxygen transfer of reactor 5
    (1/d) and the internal recycle (m3/d); the disturbances d `(14,)` are the
    influent's components and its flow (m3/d). Time is in days.

    Particulates leave the settler in the proportions in which they are fed, so
    their plant-wide balances close at steady state only; those of water, of
    each soluble and of suspended solids always do.

    Args:
        sludge: an `ASM1`.
        settler: a `TakacsSettler`.
        volumes: tuple of 5 floats, of the reactors, m3.
        transfer: tuple of 4 floats, oxygen transfer of reactors 1 to 4, 1/d.
        saturation: float, of oxygen, g/m3.
        returned: float, flow of sludge to the first reactor, m3/d.
        wasted: float, flow of sludge that is taken out, m3/d.

    Example:
    >>> plant = BSM1Plant()
    >>> state = plant.steady_state()
    >>> rate = plant.rate(state, OPEN_LOOP, CONSTANT_INFLUENT)
    >>> bool(np.abs(rate).max() < 1e-6)
    True

    Reference:
        - [Alex et al., 2018](https://github.com/wwtmodels/Benchmark-Simulation-Models)
    """

    sludge: ASM1 = ASM1()
    settler: TakacsSettler = TakacsSettler()
    volumes: tuple = (1000.0, 1000.0, 1333.0, 1333.0, 1333.0)
    transfer: tuple = (0.0, 0.0, 240.0, 240.0)
    saturation: float = 8.0
    returned: float = 18_446.0
    wasted: float = 385.0

    def __post_init__(self):
        still = self._transport(0.0, 0.0)
        parts = still, self._transport(1.0, 0.0), self._transport(0.0, 1.0)
        parts = np.stack(parts) - np.stack([0 * still, still, still])
        object.__setattr__(self, "_parts", parts)
        object.__setattr__(self, "_stoichiometry", self.sludge.stoichiometry())

    def rate(self, state, controls, disturbances):
        """`d state / dt`, 1/d: what is carried, let in and made, and settles.

        Args:
            state: array `(145,)` or `(145, n)`.
            controls: array `(2,)` or `(2, n)`.
            disturbances: array `(14,)` or `(14, n)`.

        Returns:
            An array of the state's shape.
        """
        if disturbances.ndim < state.ndim:
            disturbances = disturbances[:, None]
        transfer, recycle = controls
        inflow = disturbances[-1]
        still, recycled, through = self._parts @ state
        change = still + recycle * recycled + inflow * through
        tanks, sludge, _ = split(state)
        to_tanks, to_sludge, _ = split(change)
        made = self.sludge.rates(tanks)
        made = self._stoichiometry.T @ made.reshape(8, -1)
        to_tanks += made.reshape(tanks.shape)
        to_tanks[:, 0] += disturbances[:-1] * (inflow / self.volumes[0])
        for tank, given in enumerate(self.transfer):
            to_tanks[SO, tank] += given * self.saturation
        to_tanks[SO, -1] += transfer * (self.saturation - tanks[SO, -1])
        last = tanks[:, -1]
        fed = suspended_solids(last)
        thickened = sludge[-1] / fed * (self.returned / self.volumes[0])
        to_tanks[_PARTICULATE, 0] += last[_PARTICULATE] * thickened
        to_sludge += self.settler.settling(sludge, fed)
        return change

    def jacobian(self, state, controls, disturbances):
        """`d rate / d state`, `(145, 145)`, 1/d, in closed form."""
        transfer, recycle = controls
        weights = np.array([1.0, recycle, disturbances[-1]])
        matrix = np.tensordot(weights, self._parts, 1)
        tanks, sludge, _ = split(state)
        slopes = self.sludge.rate_derivatives(tanks).reshape(8, -1)
        made = (self._stoichiometry.T @ slopes).reshape(13, 13, REACTORS)
        for tank in range(REACTORS):
            rows = slice(13 * tank, 13 * tank + 13)
            matrix[rows, rows] += made[:, :, tank]
        oxygen = _LAST.start + SO
        matrix[oxygen, oxygen] -= transfer
        last, thick = tanks[:, -1], sludge[-1]
        fed = suspended_solids(last)
        share = self.returned / self.volumes[0] / fed
        back = np.zeros(13)
        back[_PARTICULATE] = share * last[_PARTICULATE]
        matrix[:13, _LAST] -= np.outer(back, _TSS * (thick / fed))
        matrix[_PARTICULATE, _LAST.start + _PARTICULATE] += share * thick
        matrix[:13, _SLUDGE.start] += back
        by_sludge, by_fed = self.settler.derivatives(sludge, fed)
        matrix[_SLUDGE, _SLUDGE] += by_sludge[::-1, ::-1]
        matrix[_SLUDGE, _LAST] += np.outer(by_fed[::-1], _TSS)
        return matrix

    def by_controls(self, state):
        """`d rate / d controls`, `(145, 2)`."""
        by = np.zeros((STATES, 2))
        oxygen = _LAST.start + SO
        by[oxygen, 0] = self.saturation - state[oxygen]
        by[:, 1] = self._parts[1] @ state
        return by

    def steady_state(self, controls=OPEN_LOOP, disturbances=CONSTANT_INFLUENT):
        """The state `(145,)` at which nothing changes any more.

        Two hundred days from reactors with some sludge, then Newton's method.

        Args:
            controls: array `(2,)`. Defaults to the open loop of the benchmark.
            disturbances: array `(14,)`. Defaults to its constant influent.

        Raises:
            ArithmeticError: if no such state is found.
            ImportError: if SciPy is not installed; says how to install it.
        """
        state = self.settle(_some_sludge(), controls, disturbances, days=200)
        for _ in range(20):
            jacobian = self.jacobian(state, controls, disturbances)
            rate = self.rate(state, controls, disturbances)
            step = np.linalg.solve(jacobian, -rate)
            state = state + step
            if (np.abs(step) <= 1e-12 * (1 + np.abs(state))).all():
                return state
        raise ArithmeticError(
            f"No steady state was found for controls {controls} and "
            f"disturbances {disturbances}; the last step of Newton's method "
            f"was {np.abs(step).max():g}."
        )

    def settle(self, state, controls, disturbances, days):
        """The state after some days in which nothing is changed from outside.

        Raises:
            ArithmeticError: if the integration fails.
            ImportError: if SciPy is not installed; says how to install it.
        """
        return stiff_path(
            lambda _, y: self.rate(y, controls, disturbances),
            lambda _, y: self.jacobian(y, controls, disturbances),
            state,
            (0.0, days),
        )[-1]

    def _transport(self, recycle, inflow):
        """What flows carry, and what air gives off, by the state, 1/d.

        Linear in the state, and affine in the two flows; oxygen transfer of
        reactor 5 and the sludge that comes back are not in it.
        """
        matrix = np.zeros((STATES, STATES))
        flow = inflow + recycle + self.returned
        same = np.arange(13)
        for tank, volume in enumerate(self.volumes):
            rows = same + 13 * tank
            matrix[rows, rows] -= flow / volume
            if tank:
                matrix[rows, rows - 13] += flow / volume
        matrix[same, same + _LAST.start] += recycle / self.volumes[0]
        for tank, given in enumerate(self.transfer):
            matrix[13 * tank + SO, 13 * tank + SO] -= given
        # Layers stand from the bottom to the top here.
        up = (inflow - self.wasted) / self.settler.area
        down = (self.returned + self.wasted) / self.settler.area
        layers, feed = self.settler.transport(up, down)
        layers, feed = layers[::-1, ::-1], feed[::-1]
        matrix[_SLUDGE, _SLUDGE] = layers
        matrix[_SLUDGE, _LAST] = np.outer(feed, _TSS)
        for place, component in enumerate(SOLUBLE):
            bottom = _SOLUBLES.start + LAYERS * place
            rows = slice(bottom, bottom + LAYERS)
            matrix[rows, rows] = layers
            matrix[rows, _LAST.start + component] = feed
            matrix[component, bottom] = self.returned / self.volumes[0]
        return matrix

    def effluent(self, state):
        """Concentrations `(13, ...)` of what leaves at the top."""
        return self._leaving(state, 0)

    def underflow(self, state):
        """Concentrations `(13, ...)` of the sludge that leaves below."""
        return self._leaving(state, -1)

    def _leaving(self, state, layer):
        """Its solubles, and the solids in the proportions of the feed."""
        tanks, sludge, solubles = split(state)
        out = tanks[:, -1] * (sludge[layer] / suspended_solids(tanks[:, -1]))
        out[list(SOLUBLE)] = solubles[:, layer]
        return out


def _some_sludge():
    """A state with sludge in every reactor, and clear water above it."""
    tank = np.zeros(13)
    tank[[SO, *PARTICULATE, *SOLUBLE]] = 1.0
    tank[list(SOLIDS)] = 500.0
    layers = np.repeat(tank[list(SOLUBLE)], LAYERS)
    sludge = np.geomspace(6000.0, 10.0, LAYERS)
    return np.concatenate([np.tile(tank, REACTORS), sludge, layers])


def split(state):
    """Views of a state `(145, ...)`.

    Returns:
        The reactors `(13, 5, ...)`, the settler's suspended solids `(10, ...)`
        and its solubles `(7, 10, ...)`, both with the top layer first.
    """
    rest = state.shape[1:]
    tanks = state[:65].reshape(REACTORS, 13, *rest).swapaxes(0, 1)
    solubles = state[_SOLUBLES].reshape(len(SOLUBLE), LAYERS, *rest)
    return tanks, state[_SLUDGE][::-1], solubles[:, ::-1]
