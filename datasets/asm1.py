"""Activated Sludge Model no. 1: what grows, decays and dissolves in sludge."""

import dataclasses

import numpy as np

COMPONENTS = (
    "SI",
    "SS",
    "XI",
    "XS",
    "XBH",
    "XBA",
    "XP",
    "SO",
    "SNO",
    "SNH",
    "SND",
    "XND",
    "SALK",
)
SI, SS, XI, XS, XBH, XBA, XP, SO, SNO, SNH, SND, XND, SALK = range(13)
# What is dissolved flows through the settler with the water.
SOLUBLE = (SI, SS, SO, SNO, SNH, SND, SALK)
# What settles, and is weighed together as suspended solids; XND rides along.
SOLIDS = (XI, XS, XBH, XBA, XP)
PARTICULATE = (*SOLIDS, XND)
# Suspended solids, g, of a gram of chemical oxygen demand in solids.
TSS_PER_COD = 0.75


@dataclasses.dataclass(frozen=True)
class ASM1:
    """The kinetics of activated sludge: eight processes, thirteen components.

    `dC/dt = S^T r(C)`, with the stoichiometry S `(8, 13)` and the rates r of
    aerobic and anoxic growth of heterotrophs, growth of autotrophs, decay of
    both, ammonification, and hydrolysis of organics and of organic nitrogen.
    Rates see concentrations below 0 as 0. The defaults are those of 15 degrees
    Celsius in the Benchmark Simulation Model no. 1.

    Args:
        heterotroph_growth: float, largest rate of growth, 1/d.
        half_saturation: float, of readily biodegradable matter, g COD/m3.
        oxygen_heterotrophs: float, half saturation of oxygen, g/m3.
        half_saturation_nitrate: float, g N/m3.
        heterotroph_decay: float, 1/d.
        anoxic_growth: float, growth without oxygen over growth with it.
        autotroph_growth: float, largest rate of growth, 1/d.
        half_saturation_ammonia: float, g N/m3.
        oxygen_autotrophs: float, half saturation of oxygen, g/m3.
        autotroph_decay: float, 1/d.
        ammonification: float, m3/(g COD d).
        hydrolysis: float, largest rate, g COD/(g COD d).
        half_saturation_hydrolysis: float, g COD/g COD.
        anoxic_hydrolysis: float, hydrolysis without oxygen over that with it.
        heterotroph_yield: float, g COD/g COD.
        autotroph_yield: float, g COD/g N.
        inert_fraction: float, of decayed biomass.
        nitrogen_biomass: float, g N/g COD.
        nitrogen_products: float, g N/g COD, of what decay leaves.

    Example:
    >>> model = ASM1()
    >>> stoichiometry, rates = model.stoichiometry(), model.rates(np.ones(13))
    >>> (stoichiometry.T @ rates).shape
    (13,)

    Reference:
        - [Henze et al., 1987](https://doi.org/10.2166/9781780402369)
        - [Alex et al., 2018](https://github.com/wwtmodels/Benchmark-Simulation-Models),
          the values.
    """

    heterotroph_growth: float = 4.0
    half_saturation: float = 10.0
    oxygen_heterotrophs: float = 0.2
    half_saturation_nitrate: float = 0.5
    heterotroph_decay: float = 0.3
    anoxic_growth: float = 0.8
    autotroph_growth: float = 0.5
    half_saturation_ammonia: float = 1.0
    oxygen_autotrophs: float = 0.4
    autotroph_decay: float = 0.05
    ammonification: float = 0.05
    hydrolysis: float = 3.0
    half_saturation_hydrolysis: float = 0.1
    anoxic_hydrolysis: float = 0.8
    heterotroph_yield: float = 0.67
    autotroph_yield: float = 0.24
    inert_fraction: float = 0.08
    nitrogen_biomass: float = 0.08
    nitrogen_products: float = 0.06

    def stoichiometry(self):
        """What each process makes of each component, `(8, 13)`, g/g."""
        yh, ya = self.heterotroph_yield, self.autotroph_yield
        inert, biomass = self.inert_fraction, self.nitrogen_biomass
        freed = biomass - inert * self.nitrogen_products
        denitrified = (1 - yh) / (2.86 * yh)
        rows = (
            {
                SS: -1 / yh,
                XBH: 1,
                SO: -(1 - yh) / yh,
                SNH: -biomass,
                SALK: -biomass / 14,
            },
            {
                SS: -1 / yh,
                XBH: 1,
                SNO: -denitrified,
                SNH: -biomass,
                SALK: (denitrified - biomass) / 14,
            },
            {
                XBA: 1,
                SO: -(4.57 - ya) / ya,
                SNO: 1 / ya,
                SNH: -biomass - 1 / ya,
                SALK: -biomass / 14 - 1 / (7 * ya),
            },
            {XS: 1 - inert, XBH: -1, XP: inert, XND: freed},
            {XS: 1 - inert, XBA: -1, XP: inert, XND: freed},
            {SNH: 1, SND: -1, SALK: 1 / 14},
            {SS: 1, XS: -1},
            {SND: 1, XND: -1},
        )
        matrix = np.zeros((8, 13))
        for process, row in enumerate(rows):
            for component, coefficient in row.items():
                matrix[process, component] = coefficient
        return matrix

    def rates(self, concentrations):
        """The rates `(8, ...)`, g/(m3 d), at concentrations `(13, ...)`."""
        c = np.maximum(concentrations, 0.0)
        xbh, xba, nitrogen = c[XBH], c[XBA], c[XND]
        food = c[SS] / (self.half_saturation + c[SS])
        oxygen = c[SO] / (self.oxygen_heterotrophs + c[SO])
        nitrate = c[SNO] / (self.half_saturation_nitrate + c[SNO])
        anoxic = (1 - oxygen) * nitrate
        grown = self.heterotroph_growth * food * xbh
        contact = self._contact(c[XS], xbh)
        dissolving = oxygen + self.anoxic_hydrolysis * anoxic
        attack = self.hydrolysis * dissolving * xbh / contact
        return np.stack(
            [
                grown * oxygen,
                grown * anoxic * self.anoxic_growth,
                self.autotroph_growth
                * (c[SNH] / (self.half_saturation_ammonia + c[SNH]))
                * (c[SO] / (self.oxygen_autotrophs + c[SO]))
                * xba,
                self.heterotroph_decay * xbh,
                self.autotroph_decay * xba,
                self.ammonification * c[SND] * xbh,
                attack * c[XS],
                attack * nitrogen,
            ]
        )

    def rate_derivatives(self, concentrations):
        """`d rates / d concentrations`, `(8, 13, ...)`, in closed form."""
        above = concentrations > 0
        c = np.maximum(concentrations, 0.0)
        xs, xbh, xba, xnd = c[XS], c[XBH], c[XBA], c[XND]
        food, d_food = _monod(c[SS], self.half_saturation)
        oxygen, d_oxygen = _monod(c[SO], self.oxygen_heterotrophs)
        nitrate, d_nitrate = _monod(c[SNO], self.half_saturation_nitrate)
        ammonia, d_ammonia = _monod(c[SNH], self.half_saturation_ammonia)
        breath, d_breath = _monod(c[SO], self.oxygen_autotrophs)
        anoxic = (1 - oxygen) * nitrate
        d = np.zeros((8, *c.shape))
        growth = self.heterotroph_growth
        d[0, SS] = growth * d_food * oxygen * xbh
        d[0, SO] = growth * food * d_oxygen * xbh
        d[0, XBH] = growth * food * oxygen
        growth *= self.anoxic_growth
        d[1, SS] = growth * d_food * anoxic * xbh
        d[1, SO] = -growth * food * d_oxygen * nitrate * xbh
        d[1, SNO] = growth * food * (1 - oxygen) * d_nitrate * xbh
        d[1, XBH] = growth * food * anoxic
        growth = self.autotroph_growth
        d[2, SNH] = growth * d_ammonia * breath * xba
        d[2, SO] = growth * ammonia * d_breath * xba
        d[2, XBA] = growth * ammonia * breath
        d[3, XBH] = self.heterotroph_decay
        d[4, XBA] = self.autotroph_decay
        d[5, SND] = self.ammonification * xbh
        d[5, XBH] = self.ammonification * c[SND]
        contact = self._contact(xs, xbh)
        lean = self.anoxic_hydrolysis
        dissolving = oxygen + lean * anoxic
        attack = self.hydrolysis * dissolving * xbh / contact
        by_oxygen = self.hydrolysis * xbh / contact * d_oxygen
        by_oxygen = by_oxygen * (1 - lean * nitrate)
        by_nitrate = self.hydrolysis * xbh / contact * lean
        by_nitrate = by_nitrate * (1 - oxygen) * d_nitrate
        by_biomass = self.hydrolysis * dissolving * xs / contact**2
        for process, food in ((6, xs), (7, xnd)):
            d[process, SO] = by_oxygen * food
            d[process, SNO] = by_nitrate * food
            d[process, XBH] = by_biomass * food
            d[process, XS] = -attack / contact * food
        d[6, XS] += attack
        d[7, XND] = attack
        return d * above

    def _contact(self, xs, xbh):
        """What hydrolysis is shared by; above 0 even without any solids."""
        return np.maximum(self.half_saturation_hydrolysis * xbh + xs, 1e-12)


def _monod(x, half):
    """`x / (half + x)` and its derivative."""
    return x / (half + x), half / (half + x) ** 2


def suspended_solids(concentrations):
    """TSS `(...)`, g/m3, at concentrations `(13, ...)`."""
    return TSS_PER_COD * sum(concentrations[j] for j in SOLIDS)
