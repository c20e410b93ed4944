"""Economic control of the wastewater plant by a linear Koopman model."""

import numpy as np
from keras import ops

from ..datasets.bsm1 import BSM1Plant
from ..datasets.plant_performance import LIMITS, OUTPUTS
from .linear_mpc import LinearMPC

# Of the effluent quality index, for each of `OUTPUTS`.
POLLUTION = {"SNO": 10.0, "TSS": 2.0, "COD": 1.0, "SNKj": 30.0, "BOD5": 2.0}


class KoopmanMPC:
    """Weighs the quality of the effluent against the energy of its treatment.

    At each row a `KoVAE` encodes the last rows of the log; in its latent state
    the outputs to come are affine in the controls to come. They are chosen to
    minimise, over the model's horizon,

        sum_h  EQI_h + price (AE_h + PE_h) + |u_h - u_{h-1}|_R^2 + slack^2,

    within the bounds of the plant's controllers, ammonia and total nitrogen
    softly below their limits; the first of them acts until the next row.

    Args:
        model: a `KoVAE` with a linear decoder, of the plant's `"control"`
            outputs.
        price: float > 0, of a kWh in units of a kg of pollution. Defaults to
            `1.0`.
        change: float >= 0, price of a change through a control's whole range.
            Defaults to `100.0`.
        low, high: pairs of bounds of KLa5 (1/d) and Qa (m3/d). Default to those
            of the benchmark.

    Raises:
        ImportError: if OSQP is not installed; says how to install it.
        ValueError: if the model has another decoder or other outputs.

    Reference:
        - [Han et al., 2024](https://arxiv.org/abs/2405.12478)
    """

    def __init__(
        self,
        model,
        price=1.0,
        change=100.0,
        low=(0.0, 0.0),
        high=(240.0, 92_230.0),
    ):
        sizes = model.observed_dim, model.control_dim, model.disturbance_dim
        if sizes != (len(OUTPUTS), 2, 1):
            raise ValueError(
                "`model` must have the plant's control task: "
                f"{len(OUTPUTS)} outputs, 2 controls and the flow. Received: "
                f"{sizes}"
            )
        system = model.linear_model()
        self.model, self.steps = model, model.horizon
        plant = BSM1Plant()
        self.wasted = plant.wasted
        self.weights = np.array([POLLUTION.get(n, 0.0) for n in OUTPUTS])
        span = np.subtract(high, low)
        # Total nitrogen is one more output, the sum of two.
        total = [float(name in ("SNO", "SNKj")) for name in OUTPUTS]
        self.outputs = np.vstack([np.eye(len(OUTPUTS)), total])
        limits = [LIMITS["SNH"] if n == "SNH" else np.inf for n in OUTPUTS]
        self.mpc = LinearMPC(
            self.steps,
            low,
            high,
            cost=price
            * np.array([plant.saturation / 1800 * plant.volumes[-1], 0.004]),
            change=change / span**2,
            limits=np.array([*limits, LIMITS["TN"]]),
            slack_weight=1e3,
        )
        self.gain = self._gain(system)

    def control(self, rows, flow=None):
        """KLa5 and Qa until the next row.

        Args:
            rows: array `(L, 11)`, the last rows of the log: outputs, controls,
                flow. Controls and flow of the last row are not known yet: what
                stands there is not looked at.
            flow: array `(H,)`, of the influent to come, m3/d. Defaults to
                `None`, that of the row before.

        Returns:
            Float64 array `(2,)`.

        Raises:
            ArithmeticError: if no controls are found.
            ValueError: if a shape does not fit.
        """
        rows = np.array(rows, "float64")
        before = rows[-2, len(OUTPUTS) :]
        if flow is None:
            flow = np.full(self.steps, before[-1])
        flow = np.asarray(flow, "float64")
        rows[-1, len(OUTPUTS) :] = before
        free = self.model.forecast(
            rows, np.zeros((self.steps, 2)), flow[:, None]
        ).astype("float64")
        quality = self.weights * (flow - self.wasted)[:, None] / 1000
        price = np.pad(quality, ((0, 0), (0, 1)))
        return self.mpc.solve(
            free @ self.outputs.T, self.gain, before[:2], price
        )[0]

    def _gain(self, system):
        """What controls add to outputs, in their units: `(H 9, H 2)`."""
        by_output, by_control = (
            ops.convert_to_numpy(scale)[1].astype("float64")
            for scale in (self.model.observed_scale, self.model.controls_scale)
        )
        read = self.outputs @ (by_output[:, None] * system["C"])
        state, responses = system["B"] / by_control, []
        for _ in range(self.steps):
            responses.append(read @ state)
            state = system["A"] @ state
        height, width = responses[0].shape
        gain = np.zeros((self.steps, height, self.steps, width))
        for row in range(self.steps):
            for column in range(row + 1):
                gain[row, :, column] = responses[row - column]
        return gain.reshape(self.steps * height, self.steps * width)
