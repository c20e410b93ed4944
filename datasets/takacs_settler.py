"""The settler of Takacs: ten layers in which sludge sinks and water rises."""

import dataclasses

import numpy as np

LAYERS = 10
# Layers of clear water above the one that is fed.
ABOVE = 4


@dataclasses.dataclass(frozen=True)
class TakacsSettler:
    """A secondary settler of ten layers, without reactions.

    Sludge of concentration X sinks at a velocity that is hindered in dense
    sludge and slow for what hardly flocculates,

        v(X) = min(v0', max(0, v0 (exp(-rh (X - Xm)) - exp(-rp (X - Xm))))),

    with `Xm = fns Xf` of the sludge concentration Xf that is fed; the flux
    between two layers is what the upper one sends and the lower one takes.
    Water rises above the feed, and sinks below it. Layer 0 is the top one.

    Args:
        area: float, m2.
        height: float, of a layer, m.
        largest_velocity: float, v0', m/d.
        velocity: float, v0, m/d.
        hindered: float, rh, m3/g.
        flocculant: float, rp, m3/g.
        unsettleable: float, fns, of what is fed.
        threshold: float, g/m3: above the feed, a layer that holds less takes
            all that comes.

    Example:
    >>> settler = TakacsSettler()
    >>> settler.velocity_of(np.array([5.0, 300.0, 6000.0]), 3000.0).round(1)
    array([  0. , 195.4,  15. ])

    Reference:
        - [Takacs et al., 1991](https://doi.org/10.1016/0043-1354(91)90066-Y)
    """

    area: float = 1500.0
    height: float = 0.4
    largest_velocity: float = 250.0
    velocity: float = 474.0
    hindered: float = 5.76e-4
    flocculant: float = 2.86e-3
    unsettleable: float = 2.28e-3
    threshold: float = 3000.0

    def velocity_of(self, sludge, fed):
        """Settling velocity, m/d, of sludge `(...)` where `fed` comes in."""
        free = self._free(sludge, fed)[0]
        return np.minimum(np.maximum(free, 0.0), self.largest_velocity)

    def settling(self, sludge, fed):
        """What sinking makes of each layer's sludge, `(10, ...)`, g/(m3 d)."""
        flux = self.velocity_of(sludge, fed) * sludge
        sinking = np.minimum(flux[:-1], flux[1:])
        sinking[:ABOVE] = np.where(
            self._dense(sludge), sinking[:ABOVE], flux[:ABOVE]
        )
        sinking /= self.height
        change = np.zeros_like(sludge)
        change[:-1] -= sinking
        change[1:] += sinking
        return change

    def derivatives(self, sludge, fed):
        """`settling` by the sludge, `(10, 10)`, and by what is fed, `(10,)`."""
        free, slope = self._free(sludge, fed)
        inside = (free > 0) & (free < self.largest_velocity)
        slope = np.where(inside, slope, 0.0)
        velocity = np.clip(free, 0.0, self.largest_velocity)
        flux = velocity * sludge
        by_sludge = velocity + sludge * slope
        by_fed = -self.unsettleable * sludge * slope
        lower = flux[1:] < flux[:-1]
        lower[:ABOVE] &= self._dense(sludge)
        upper = np.arange(LAYERS - 1)
        decides = upper + lower
        by, feed = np.zeros((LAYERS, LAYERS)), np.zeros(LAYERS)
        by[upper, decides] -= by_sludge[decides]
        by[upper + 1, decides] += by_sludge[decides]
        feed[:-1] -= by_fed[decides]
        feed[1:] += by_fed[decides]
        return by / self.height, feed / self.height

    def transport(self, up, down):
        """What water carries between layers, and from the feed into them.

        Args:
            up: float, velocity of the water above the feed, m/d.
            down: float, velocity of the water below it, m/d.

        Returns:
            Matrices `(10, 10)` and `(10,)`, 1/d, by the concentration of the
            layers and of what is fed.
        """
        place = np.arange(LAYERS)
        out = np.where(place < ABOVE, up, down) + up * (place == ABOVE)
        matrix = np.diag(-out.astype("float64"))
        matrix[place[:ABOVE], place[:ABOVE] + 1] = up
        matrix[place[ABOVE + 1 :], place[ABOVE + 1 :] - 1] = down
        feed = np.where(place == ABOVE, up + down, 0.0)
        return matrix / self.height, feed / self.height

    def _free(self, sludge, fed):
        """The velocity before it is cut, and its derivative by the sludge."""
        excess = sludge - self.unsettleable * fed
        slow = self.velocity * np.exp(-self.hindered * excess)
        fast = self.velocity * np.exp(-self.flocculant * excess)
        return slow - fast, self.flocculant * fast - self.hindered * slow

    def _dense(self, sludge):
        """Of the boundaries above the feed: may the lower layer limit it?"""
        return sludge[1 : ABOVE + 1] > self.threshold
