"""Proportional-integral controllers of a plant, with limits they know of."""

import dataclasses

import numpy as np

from .bsm1 import STATE_NAMES


@dataclasses.dataclass(frozen=True)
class PIController:
    """Holds a state of the plant at a set-point by one of its controls.

    With the error e = setpoint - y,

        u = clip(K e + I),   dI/dt = K e / Ti + (u - (K e + I)) / Tt:

    the second term keeps the integral I from running away at a limit.

    Args:
        measured: str, name of the state y.
        gain: float, K, unit of the control over that of the state.
        integral_time: float, Ti, d.
        tracking_time: float, Tt, d.
        low: float, smallest control.
        high: float, largest control.

    Reference:
        - [Alex et al., 2018](https://github.com/wwtmodels/Benchmark-Simulation-Models)
    """

    measured: str
    gain: float
    integral_time: float
    tracking_time: float
    low: float
    high: float

    @property
    def place(self):
        """Index of the measured state."""
        return STATE_NAMES.index(self.measured)

    def outputs(self, error, integral):
        """The control, `dI/dt`, and whether the control is at a limit."""
        wanted = self.gain * error + integral
        control = min(max(wanted, self.low), self.high)
        rate = self.gain * error / self.integral_time
        rate += (control - wanted) / self.tracking_time
        return control, rate, control != wanted


# The benchmark's: oxygen in reactor 5 by its oxygen transfer, and nitrate in
# reactor 2 by the internal recycle. Sensors are taken to be ideal.
OXYGEN = PIController("SO5", 25.0, 0.002, 0.001, 0.0, 240.0)
NITRATE = PIController("SNO2", 10_000.0, 0.025, 0.015, 0.0, 92_230.0)
CONTROLLERS = (OXYGEN, NITRATE)


class ControlledPlant:
    """A plant, its controllers, and the controls summed up over time.

    The state `(149,)`: that of the plant, the integrals of the two controllers,
    and the integrals over time of the two controls.

    Args:
        plant: a `BSM1Plant`.
        controllers: pair of `PIController`, of KLa5 and of Qa.
    """

    def __init__(self, plant, controllers=CONTROLLERS):
        self.plant, self.controllers = plant, controllers
        self.places = [controller.place for controller in controllers]

    def start(self, state, controls, setpoints):
        """A state from which the controllers begin with these controls.

        Args:
            state: array `(145,)`, of the plant.
            controls: array `(2,)`, within the limits.
            setpoints: array `(2,)`, the first ones.
        """
        gains = np.array([c.gain for c in self.controllers])
        integrals = controls - gains * self._errors(state, setpoints)
        return np.concatenate([state, integrals, np.zeros(2)])

    def controls(self, state, setpoints):
        """What the controllers ask for, `(2,)`."""
        return np.array([out[0] for out in self._outputs(state, setpoints)])

    def rate(self, state, setpoints, disturbances):
        outputs = self._outputs(state, setpoints)
        controls = np.array([control for control, _, _ in outputs])
        return np.concatenate(
            [
                self.plant.rate(state[:-4], controls, disturbances),
                [rate for _, rate, _ in outputs],
                controls,
            ]
        )

    def jacobian(self, state, setpoints, disturbances):
        outputs = self._outputs(state, setpoints)
        controls = np.array([control for control, _, _ in outputs])
        size = len(state) - 4
        matrix = np.zeros((size + 4, size + 4))
        matrix[:size, :size] = self.plant.jacobian(
            state[:-4], controls, disturbances
        )
        by_controls = self.plant.by_controls(state[:-4])
        for k, controller in enumerate(self.controllers):
            place, integral = self.places[k], size + k
            matrix[integral, place] = (
                -controller.gain / controller.integral_time
            )
            if outputs[k][2]:
                matrix[integral, place] += (
                    controller.gain / controller.tracking_time
                )
                matrix[integral, integral] = -1 / controller.tracking_time
                continue
            matrix[:size, place] -= by_controls[:, k] * controller.gain
            matrix[:size, integral] = by_controls[:, k]
            matrix[size + 2 + k, place] = -controller.gain
            matrix[size + 2 + k, integral] = 1.0
        return matrix

    def _errors(self, state, setpoints):
        return np.asarray(setpoints) - state[self.places]

    def _outputs(self, state, setpoints):
        errors = self._errors(state, setpoints)
        return [
            controller.outputs(error, integral)
            for controller, error, integral in zip(
                self.controllers, errors, state[-4:-2], strict=True
            )
        ]
