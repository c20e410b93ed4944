"""Learned mechanical systems: states in, trajectories out. The base class."""

import keras
import numpy as np
from keras import ops

from .._backend import compile_function
from .._checks import check_finite, check_integer, check_real
from .mechanical_state import check_array, check_inputs, unpack
from .presets import Presets
from .rollout_loop import rollout_loop

UNITS = {"q": 1.0, "p": 1.0, "t": 1.0, "u": 1.0}


@keras.saving.register_keras_serializable(package="orrery")
class MechanicalModel(Presets, keras.Model):
    """A model that maps a state of n positions to the trajectory behind it.

    A subclass has `stepper()`, which returns a function
    `(q, p, push, num_steps)` to the list of `num_steps + 1` pairs `(q, p)`,
    the given one first, in steps of `step_size`; `push` is a force held over
    them, or `None`. It adds to q and p and takes their values by `plain`, so
    that they may be `Compensated`. And it has `derivatives(q, p)`, which
    returns `dq/dt` and `dp/dt`. Both are in the model's `units`, this class
    converts.

    Control enters as a force, `dp/dt = ... + B u`, with a learned B `(n, m)`.

    Trained by `fit` on `orrery.datasets.TrajectoryWindows` with the loss
    `"mse"`, through the integrator. Everything is computed in `floatx`, also
    under a mixed policy: half precision cannot tell energies apart. A
    potential that is given must have that dtype; float32 is its own default.

    Args:
        dim: int, n >= 1, number of positions.
        num_steps: int, S >= 1, steps of the trajectory that a call returns.
        step_size: float > 0, time between two points.
        num_controls: int, m >= 0.
        units: dict, a positive number for any of `"q"`, `"p"`, `"t"` and
            `"u"`: typical values of positions, momenta, time and control in
            the data, by which the network's own numbers are of order one. 1
            where not given. Defaults to `None`, 1 for all.

    Call arguments:
        inputs: a dict with `"q"`, `"p"` `(B, n)` and, with m > 0,
            `"controls"` `(B, S, m)`, held from each point to the next; a
            tuple of these; or one tensor `(B, 2 n)`, q beside p.
        training: bool.

    Returns:
        Trajectory `(B, S + 1, 2 n)`, q beside p, the given state first.

    Raises:
        ValueError: if an argument is out of its range, the width of a state odd
            or not that of the model, or a NumPy array not finite.

    Example:

    ```python
    from orrery.zoo.mechanical_model import MechanicalModel


    class Free(MechanicalModel):
        def derivatives(self, q, p):
            return p, 0.0 * p

        def stepper(self):
            return lambda q, p, push, num_steps: [
                (q + k * self.step_size * p, p) for k in range(num_steps + 1)
            ]


    trajectory = Free(1)((np.ones((5, 1)), np.ones((5, 1))))  # (5, 11, 2)
    ```

    Reference:
        - [Chen et al., 2020](https://arxiv.org/abs/1909.13334), the loss
          through an integrator.
    """

    def __init__(
        self,
        dim,
        num_steps=10,
        step_size=0.1,
        num_controls=0,
        units=None,
        **kwargs,
    ):
        # Else Keras would cast the states to half precision at the entrance.
        super().__init__(**{"dtype": keras.config.floatx(), **kwargs})
        for name, value, least in (
            ("dim", dim, 1),
            ("num_steps", num_steps, 1),
            ("num_controls", num_controls, 0),
        ):
            check_integer(name, value, least)
        check_real("step_size", step_size, "above 0", lambda size: size > 0)
        if units is None:
            units = {}
        if not isinstance(units, dict) or not set(units) <= set(UNITS):
            raise ValueError(
                "`units` must be a dict of positive numbers for some of "
                f"{list(UNITS)}. Received: units={units!r}"
            )
        for name, unit in units.items():
            check_real(f"units[{name!r}]", unit, "above 0", lambda x: x > 0)
        self.dim = int(dim)
        self.num_steps = int(num_steps)
        self.step_size = float(step_size)
        self.num_controls = int(num_controls)
        units = {name: float(unit) for name, unit in units.items()}
        self.units = {**UNITS, **units}

    def build(self, input_shape=None):
        if self.num_controls:
            self.control_kernel = self.add_weight(
                shape=(self.num_controls, self.dim),
                initializer="zeros",
                name="control_kernel",
            )

    def ensure_built(self):
        """Make the weights, unless there are some."""
        if not self.built:
            self.build()

    def __call__(self, inputs, *args, **kwargs):
        check_inputs(inputs)
        return super().__call__(inputs, *args, **kwargs)

    def fit(self, x=None, y=None, *args, **kwargs):
        """As `keras.Model.fit`; NumPy arrays must be finite.

        Raises:
            ValueError: names what is not finite, and where.
        """
        check_inputs(x)
        if isinstance(y, np.ndarray):
            check_finite("y", y)
        return super().fit(x, y, *args, **kwargs)

    # === Trajectories ===
    def stepper(self):
        """A function `(q, p, push, num_steps)` to all states on the way."""
        raise NotImplementedError

    def derivatives(self, q, p):
        """`dq/dt` and `dp/dt` of states without control, in own units."""
        raise NotImplementedError

    def field(self, q, p):
        """`dq/dt` and `dp/dt` of states `(..., n)`, without control."""
        self.ensure_built()
        unit = self.units
        dq, dp = self.derivatives(*self.in_own_units(q, p))
        return dq * (unit["q"] / unit["t"]), dp * (unit["p"] / unit["t"])

    def call(self, inputs, training=False):
        q, p, controls = self._unpack(inputs)
        state, step = self.in_own_units(q, p), self.stepper()
        if controls is None:
            states = step(*state, None, self.num_steps)
        else:
            states = [state]
            for k in range(self.num_steps):
                push = self._push(controls[:, k])
                states.append(step(*states[-1], push, 1)[-1])
        return ops.stack(
            [
                ops.concatenate(
                    [q * self.units["q"], p * self.units["p"]], axis=-1
                )
                for q, p in states
            ],
            axis=1,
        )

    def rollout(self, q, p, num_steps, save_every=1, controls=None):
        """Integrate for any number of steps, in a compiled loop.

        What rounding takes from q and p is remembered (`Compensated`), so that
        a long roll-out in float32 shows the integrator's drift, not its own.
        PyTorch runs the loop step by step; JAX and TensorFlow compile it for
        every new `num_steps`, `save_every`, `step_size` and batch size, and for
        a potential whose `get_config` changed; one without a `get_config` is
        held as its first roll-out finds it.

        Args:
            q: NumPy array `(B, n)`, positions.
            p: NumPy array `(B, n)`, momenta.
            num_steps: int, steps of `step_size`.
            save_every: int, a divisor of `num_steps`: how many steps apart the
                states lie that are returned. Defaults to `1`.
            controls: NumPy array `(B, num_steps, m)`, where the model has a
                control. Defaults to `None`.

        Returns:
            q and p, NumPy arrays `(B, num_steps / save_every + 1, n)`. What
            diverged is infinite or NaN.

        Raises:
            ValueError: if an argument is not as described, or not finite.
        """
        shape, dtype = (len(np.atleast_1d(q)), self.dim), self.compute_dtype
        q, p = (
            check_array(name, x, shape, dtype)
            for name, x in (("q", q), ("p", p))
        )
        for name, value in (
            ("num_steps", num_steps),
            ("save_every", save_every),
        ):
            check_integer(name, value, 1)
        if num_steps % save_every:
            raise ValueError(
                "`save_every` must divide `num_steps`. Received: "
                f"save_every={save_every}, num_steps={num_steps}"
            )
        self.ensure_built()
        arguments = [q / self.units["q"], p / self.units["p"]]
        if self.num_controls:
            shape = (len(q), num_steps, self.num_controls)
            controls = check_array("controls", controls, shape, dtype)
            times = (num_steps // save_every, save_every)
            controls = np.moveaxis(controls, 1, 0)
            arguments.append(controls.reshape(*times, *controls.shape[1:]))
        elif controls is not None:
            raise ValueError("`controls` were given to a model without any.")
        # Not by `setattr`, which tracks what it is given as part of the model.
        loops = vars(self).setdefault("_rollout_loops", {})
        counts = int(num_steps), int(save_every)
        key = (*counts, repr(self._constants()))
        if key not in loops:
            loop = rollout_loop(self.stepper, self._push, *counts)
            loops[key] = compile_function(loop, self.variables)
        tensors = [ops.convert_to_tensor(a, dtype) for a in arguments]
        path = map(ops.convert_to_numpy, loops[key](*tensors))
        return tuple(
            np.concatenate([first[:, None], np.moveaxis(x, 0, 1) * unit], 1)
            for first, x, unit in zip(
                (q, p), path, (self.units["q"], self.units["p"]), strict=True
            )
        )

    def _constants(self):
        """What a compiled roll-out holds that is no weight, yet may change."""
        return self.step_size

    def in_own_units(self, q, p):
        """Positions and momenta in `units`, tensors of tensors or arrays."""
        return tuple(
            ops.convert_to_tensor(x, self.compute_dtype) / self.units[name]
            for name, x in (("q", q), ("p", p))
        )

    def _push(self, controls):
        """The force of a control `(..., m)`, in own units."""
        return ops.matmul(controls / self.units["u"], self.control_kernel)

    def _unpack(self, inputs):
        return unpack(inputs, self.dim, self.num_steps, self.num_controls)

    def compute_output_spec(self, inputs, training=False):
        q, _, _ = self._unpack(inputs)
        shape = (q.shape[0], self.num_steps + 1, 2 * self.dim)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def export(
        self,
        filepath,
        format="tf_saved_model",
        verbose=None,
        input_signature=None,
        **kwargs,
    ):
        """`keras.Model.export` of the map from states to trajectories.

        Args:
            filepath: str or path, where to write.
            format: `"onnx"` (needs `jax2onnx` on JAX, `tf2onnx` on TensorFlow)
                or another format of Keras.
            verbose: bool or `None`, whether to print the path.
            input_signature: what to feed, as in Keras, instead of states
                `(B, 2 n)`, q beside p, or with a control of a dict of `"q"`,
                `"p"` and `"controls"`.
            **kwargs: passed on to Keras.
        """
        if input_signature is None:
            shapes = {"states": (2 * self.dim,)}
            if self.num_controls:
                shapes = {
                    "q": (self.dim,),
                    "p": (self.dim,),
                    "controls": (self.num_steps, self.num_controls),
                }
            specs = {
                name: keras.InputSpec(
                    shape=(None, *shape), dtype=self.compute_dtype, name=name
                )
                for name, shape in shapes.items()
            }
            input_signature = [specs.get("states", specs)]
        super().export(
            filepath,
            format=format,
            verbose=verbose,
            input_signature=input_signature,
            **kwargs,
        )

    # === Config ===
    def get_config(self):
        return {
            **super().get_config(),
            "dim": self.dim,
            "num_steps": self.num_steps,
            "step_size": self.step_size,
            "num_controls": self.num_controls,
            "units": dict(self.units),
        }

    def get_build_config(self):
        return {"dim": self.dim}  # An empty one would not be restored.

    def build_from_config(self, config):
        self.build()
