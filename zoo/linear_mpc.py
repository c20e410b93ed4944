"""Model predictive control as a quadratic programme, solved by OSQP."""

import numpy as np

from .._checks import check_integer, check_real


class LinearMPC:
    """Chooses controls over a horizon of N steps for outputs affine in them.

    With `y = f + G u` (f: what comes without controls) it minimises

        sum_h q . y_h + c . u_h + (y_h - r)^T Q (y_h - r) + u_h^T S u_h
            + (u_h - u_{h-1})^T R (u_h - u_{h-1}) + weight |s_h|^2

    under `low <= u_h <= high` and `y_h <= limit + s_h`, `s_h >= 0`: limits of
    outputs may be exceeded at a price, so that there always is a solution. The
    solver starts from its last solution.

    Args:
        horizon: int > 0, N.
        low, high: arrays `(m,)`, bounds of the controls.
        cost: array `(m,)`, c. Defaults to `None`, zero.
        effort: array `(m,)` >= 0, diagonal of S. Defaults to `None`, zero.
        change: array `(m,)` >= 0, diagonal of R. Defaults to `None`, zero.
        tracking: array `(X,)` >= 0, diagonal of Q. Defaults to `None`, zero.
        limits: array `(X,)`, infinite where there is none. Defaults to `None`.
        slack_weight: float > 0. Defaults to `1e4`.

    Raises:
        ImportError: if OSQP is not installed; says how to install it.
        ValueError: if a shape or a sign does not fit.

    Example:
    >>> mpc = LinearMPC(2, low=[-1.0], high=[1.0], effort=[1.0])
    >>> u = mpc.solve(np.zeros((2, 1)), np.eye(2), output_cost=[[2.0], [1.0]])
    >>> u.round(3).tolist()
    [[-1.0], [-0.5]]

    Reference:
        - [Stellato et al., 2020](https://arxiv.org/abs/1711.08013)
    """

    def __init__(
        self,
        horizon,
        low,
        high,
        cost=None,
        effort=None,
        change=None,
        tracking=None,
        limits=None,
        slack_weight=1e4,
    ):
        try:
            import osqp
        except ImportError as error:
            raise ImportError(
                "LinearMPC needs OSQP: pip install 'orrery[forecast]'"
            ) from error
        check_integer("horizon", horizon, 1)
        self.low, self.high = (np.asarray(x, "float64") for x in (low, high))
        if self.low.ndim != 1 or not (self.low <= self.high).all():
            raise ValueError(
                "`low` and `high` must be of one shape (m,), none above the "
                f"other. Received: {low} and {high}"
            )
        self.horizon, self.slack_weight = horizon, float(slack_weight)
        width = len(self.low)
        self.cost, self.effort, self.change = (
            np.zeros(width) if x is None else np.asarray(x, "float64")
            for x in (cost, effort, change)
        )
        if self.cost.shape != (width,):
            raise ValueError(
                f"`cost` must be {width} numbers. Received: {cost}"
            )
        for name, x in (("effort", self.effort), ("change", self.change)):
            if x.shape != (width,) or (x < 0).any():
                raise ValueError(
                    f"`{name}` must be {width} numbers of at least 0. "
                    f"Received: {x}"
                )
        check_real("slack_weight", slack_weight, "above 0", lambda x: x > 0)
        self.tracking = tracking
        self.limits = limits
        self._osqp, self._solution = osqp, None

    def solve(
        self,
        free,
        gain,
        last=None,
        output_cost=None,
        reference=None,
    ):
        """The best controls of all steps.

        Args:
            free: array `(N, X)`, outputs without controls.
            gain: array `(N X, N m)`, G, rows and columns step by step.
            last: array `(m,)`, the control before the first. Defaults to
                `None`: the first may be any without a price of change.
            output_cost: array `(N, X)`, q. Defaults to `None`, zero.
            reference: array `(N, X)` or `(X,)`, r. Defaults to `None`, zero.

        Returns:
            Float64 array `(N, m)`.

        Raises:
            ArithmeticError: if the solver finds no solution.
            ValueError: if a shape does not fit.
        """
        free, gain = (np.asarray(x, "float64") for x in (free, gain))
        steps, width = self.horizon, len(self.low)
        outputs = free.shape[-1]
        if free.shape != (steps, outputs) or gain.shape != (
            steps * outputs,
            steps * width,
        ):
            raise ValueError(
                f"`free` must be of shape ({steps}, X) and `gain` of shape "
                f"({steps} X, {steps * width}). Received: {free.shape} and "
                f"{gain.shape}"
            )
        for name, x in (("tracking", self.tracking), ("limits", self.limits)):
            if x is not None and np.shape(x) != (outputs,):
                raise ValueError(
                    f"`{name}` must be {outputs} numbers, one an output. "
                    f"Received: {x}"
                )
        quadratic, linear = self._objective(
            free, gain, last, output_cost, reference
        )
        rows, low, high, slacks = self._constraints(free, gain)
        size = steps * width
        full = np.zeros((size + slacks, size + slacks))
        full[:size, :size] = quadratic
        full[size:, size:] = 2 * self.slack_weight * np.eye(slacks)
        linear = np.concatenate([linear, np.zeros(slacks)])
        # In shares of a control's range the solver finds numbers alike.
        span = np.where(self.high > self.low, self.high - self.low, 1.0)
        scale = np.concatenate([np.tile(span, steps), np.ones(slacks)])
        rows = rows * scale
        weight = 1 / np.maximum(np.abs(rows).max(axis=1), 1e-9)
        full, linear = full * scale * scale[:, None], linear * scale
        unit = np.abs(linear).max() or 1.0
        found = scale * self._run(
            full / unit,
            linear / unit,
            rows * weight[:, None],
            low * weight,
            high * weight,
        )
        found = found[:size].reshape(steps, width)
        return np.clip(found, self.low, self.high)

    def _objective(self, free, gain, last, output_cost, reference):
        steps, width = self.horizon, len(self.low)
        differences = np.eye(steps * width) - np.eye(steps * width, k=-width)
        weights = np.tile(self.change, steps)
        before = np.zeros(steps * width)
        if last is None:
            weights[:width] = 0.0
        else:
            before[:width] = last
        quadratic = differences.T * weights @ differences
        quadratic += np.diag(np.tile(self.effort, steps))
        linear = np.tile(self.cost, steps)
        linear = linear - 2 * differences.T @ (weights * before)
        if output_cost is not None:
            linear = linear + gain.T @ np.ravel(output_cost)
        if self.tracking is not None:
            weights = np.tile(self.tracking, steps)
            goal = 0.0 if reference is None else reference
            error = (free - goal).ravel()
            quadratic += gain.T * weights @ gain
            linear = linear + 2 * gain.T @ (weights * error)
        return 2 * quadratic, linear

    def _constraints(self, free, gain):
        steps, size = self.horizon, gain.shape[1]
        limited = np.zeros(free.shape, bool)
        if self.limits is not None:
            limited = np.broadcast_to(np.isfinite(self.limits), free.shape)
        limited = limited.ravel()
        slacks = int(limited.sum())
        rows = np.zeros((size + 2 * slacks, size + slacks))
        rows[:size, :size] = np.eye(size)
        rows[size : size + slacks, :size] = gain[limited]
        rows[size : size + slacks, size:] = -np.eye(slacks)
        rows[size + slacks :, size:] = np.eye(slacks)
        low = np.concatenate(
            [np.tile(self.low, steps), np.full(slacks, -np.inf), [0.0] * slacks]
        )
        high = np.tile(self.high, steps)
        if slacks:
            bound = np.broadcast_to(self.limits, free.shape).ravel()
            room = (bound - free.ravel())[limited]
            high = np.concatenate([high, room, np.full(slacks, np.inf)])
        return rows, low, high, slacks

    def _run(self, quadratic, linear, rows, low, high):
        from scipy import sparse

        solver = self._osqp.OSQP()
        solver.setup(
            sparse.csc_matrix(np.triu(quadratic)),
            linear,
            sparse.csc_matrix(rows),
            low,
            high,
            verbose=False,
            eps_abs=1e-6,
            eps_rel=1e-6,
            max_iter=20_000,
            polishing=True,
        )
        if self._solution is not None and len(self._solution) == len(linear):
            solver.warm_start(x=self._solution)
        found = solver.solve(raise_error=False)
        if found.info.status not in ("solved", "solved inaccurate"):
            raise ArithmeticError(
                f"OSQP found no controls: {found.info.status}"
            )
        self._solution = found.x
        return found.x
