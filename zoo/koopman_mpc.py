"""Economic control of the wastewater plant by a Koopman model."""

import numpy as np

from ..datasets.bsm1 import BSM1Plant
from ..datasets.plant_performance import LIMITS, OUTPUTS
from .linear_mpc import LinearMPC

# Of the effluent quality index, for each of `OUTPUTS`.
POLLUTION = {"SNO": 10.0, "TSS": 2.0, "COD": 1.0, "SNKj": 30.0, "BOD5": 2.0}
# Step of the difference quotients, of a control's range.
PROBE = 0.05


class KoopmanMPC:
    """Weighs the quality of the effluent against the energy of its treatment.

    At each row a forecaster is asked what the plan of the row before would
    bring, and what each of its numbers adds, by difference quotients in one
    batch of forecasts. Outputs affine in the controls to come (`MamKO`, and
    `KoVAE` with a linear decoder) are so told exactly, others to first order
    about the plan. Controls are chosen to minimise, over the model's horizon,

        sum_h  EQI_h + price (AE_h + PE_h) + |u_h - u_{h-1}|_R^2 + slack^2,

    within the bounds of the plant's controllers, ammonia and total nitrogen
    softly below their limits; the first of them acts until the next row. The
    rest is linear: without a price of changes the answer is at some bound.

    Args:
        model: a `Forecaster` of the plant's `"control"` outputs.
        price: float > 0, of a kWh in units of a kg of pollution. Defaults to
            `1.0`.
        change: float >= 0, price of a change through a control's whole range,
            in the unit of the sum, kg/d. Defaults to `3e4`.
        low, high: pairs of bounds of KLa5 (1/d) and Qa (m3/d). Default to those
            of the benchmark.

    Raises:
        ImportError: if OSQP is not installed; says how to install it.
        ValueError: if the model has other outputs.

    Reference:
        - [Han et al., 2024](https://arxiv.org/abs/2405.12478); one quadratic
          programme a row about the last plan: Diehl, Bock and Schloeder, 2005,
          the real-time iteration.
    """

    def __init__(
        self,
        model,
        price=1.0,
        change=3e4,
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
        self.model, self.steps = model, model.horizon
        plant = BSM1Plant()
        self.wasted = plant.wasted
        self.weights = np.array([POLLUTION.get(n, 0.0) for n in OUTPUTS])
        self.low, self.high = (np.array(x, "float64") for x in (low, high))
        span = self.high - self.low
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
        self.plan = None

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
        if self.plan is None:
            held = np.clip(before[:2], self.low, self.high)
            self.plan = np.tile(held, (self.steps, 1))
        quality = self.weights * (flow - self.wasted)[:, None] / 1000
        price = np.pad(quality, ((0, 0), (0, 1)))
        free, gain = self.response(rows, flow, self.plan)
        chosen = self.mpc.solve(free, gain, before[:2], price)
        self.plan = np.concatenate([chosen[1:], chosen[-1:]])
        return chosen[0]

    def response(self, rows, flow, plan):
        """Outputs to first order in the controls, `y = free + gain u`.

        Args:
            rows: array `(L, 11)`, without NaN.
            flow: array `(H,)`.
            plan: array `(H, 2)`, the controls about which it is taken.

        Returns:
            Arrays `(H, 9)` and `(9 H, 2 H)`, rows and columns step by step;
            total nitrogen is the last output.
        """
        probe = PROBE * (self.high - self.low)
        probe = np.where(plan + probe > self.high, -probe, probe).ravel()
        plans = plan.ravel() + np.vstack([0 * probe, np.diag(probe)])
        count = len(plans)
        forecasts = self.model.forecast(
            np.repeat(rows[None], count, axis=0),
            plans.reshape(count, *plan.shape),
            np.repeat(flow[None, :, None], count, axis=0),
        )
        outputs = forecasts.astype("float64") @ self.outputs.T
        outputs = outputs.reshape(count, -1)
        gain = (outputs[1:] - outputs[0]).T / probe
        free = outputs[0] - gain @ plan.ravel()
        return free.reshape(self.steps, -1), gain
