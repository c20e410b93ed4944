"""The gradient of an equilibrium's cost without a nudge, in NumPy float64.

For the energy of `HopfieldEnergy` with tanh: the states of one example stand in
one row `s`, weights are the lists of kernels and of biases.
"""

import numpy as np

DESCENT, NEWTON = 300, 6


class Equilibrium:
    """One example: its equilibria, and the gradients that they hold."""

    def __init__(self, kernels, biases, x, target):
        self.kernels, self.biases = kernels, biases
        self.input, self.target = np.tanh(x), target
        self.ends = np.cumsum([len(bias) for bias in biases])[:-1]

    def layers(self, row):
        """The row's states, one array for each layer."""
        return np.split(row, self.ends)

    def drives(self, row):
        below = [self.input, *map(np.tanh, self.layers(row))]
        drives = [
            r @ kernel + bias
            for r, kernel, bias in zip(
                below[:-1], self.kernels, self.biases, strict=True
            )
        ]
        for k, kernel in enumerate(self.kernels[1:]):
            drives[k] = drives[k] + kernel @ below[k + 2]
        return np.concatenate(drives)

    def gradient(self, row, beta=0.0):
        found = row - (1 - np.tanh(row) ** 2) * self.drives(row)
        found[self.ends[-1] :] += beta * self.pull(row)[self.ends[-1] :]
        return found

    def pull(self, row):
        """`dC/ds`."""
        found = np.zeros_like(row)
        found[self.ends[-1] :] = row[self.ends[-1] :] - self.target
        return found

    def hessian(self, row, beta=0.0):
        r = np.tanh(row)
        slope = 1 - r * r
        found = np.diag(1 + 2 * r * slope * self.drives(row))
        starts = [0, *self.ends, len(row)]
        for k, kernel in enumerate(self.kernels[1:]):
            low = slice(starts[k], starts[k + 1])
            high = slice(starts[k + 1], starts[k + 2])
            cross = -slope[low, None] * kernel * slope[None, high]
            found[low, high] += cross
            found[high, low] += cross.T
        last = np.arange(starts[-2], len(row))
        found[last, last] += beta
        return found

    def settle(self, row, beta=0.0):
        """Descend from `row`, then go to the last digit by Newton."""
        for _ in range(DESCENT):
            row = row - 0.3 * self.gradient(row, beta)
        for _ in range(NEWTON):
            row = row - np.linalg.solve(
                self.hessian(row, beta), self.gradient(row, beta)
            )
        return row

    def parameter_gradient(self, row):
        """`dE/dtheta`: the kernels', then the biases'."""
        r = [self.input, *map(np.tanh, self.layers(row))]
        kernels = [-np.outer(a, b) for a, b in zip(r[:-1], r[1:], strict=True)]
        return [*kernels, *(-b for b in r[1:])]

    def implicit(self, row):
        """`-a . d2E/(ds dtheta)` with `(d2E/ds2) a = dC/ds`."""
        a = np.linalg.solve(self.hessian(row), self.pull(row))
        r = [self.input, *map(np.tanh, self.layers(row))]
        m = self.layers((1 - np.tanh(row) ** 2) * a)
        m = [np.zeros_like(self.input), *m]
        kernels = [
            np.outer(m[k], r[k + 1]) + np.outer(r[k], m[k + 1])
            for k in range(len(self.kernels))
        ]
        return [*kernels, *m[1:]]

    def propagated(self, row, beta, nudging):
        """What equilibrium propagation finds from the free equilibrium."""
        symmetric = nudging == "symmetric"
        pulled = self.parameter_gradient(self.settle(row, beta))
        pushed = self.parameter_gradient(
            self.settle(row, -beta) if symmetric else row
        )
        apart = 2 * beta if symmetric else beta
        return [(a - b) / apart for a, b in zip(pulled, pushed, strict=True)]
