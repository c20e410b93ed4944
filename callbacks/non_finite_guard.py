"""What to do when a run stops being finite."""

import math

import keras
import numpy as np
from keras import ops


class NonFiniteGuard(keras.callbacks.Callback):
    """Stops a run that is not finite, or goes on without its Koopman loss.

    After each epoch the mean loss and every variable of the model (weights,
    EDMD statistics, solved operators) are checked. Batches that a
    `GuardedOptimizer` skipped are logged as `non_finite_batches`, the number
    in this epoch; since the skipped batch's loss is part of the mean, they
    make the epoch's loss non-finite and so count as an event as well.

    With `"disable"` an event sets `model.koopman_weight` to 0 for the next
    epoch and puts variables of `model.operators` that are not finite back to
    their values at the epoch's begin. It is printed and counted in the log
    `non_finite_events`, the number so far. Non-finite variables outside the
    operators raise an error with either action: nothing can be kept of them.
    Put it behind `KoopmanSchedule`, which assigns the weight. A model without
    `koopman_weight` or `operators` is only watched.

    Args:
        action: `"raise"` or `"disable"`. Defaults to `"raise"`.

    Raises:
        ValueError: If `action` is neither.
        FloatingPointError: At the end of an epoch that was not finite; it
            names what was not.

    Example:
    ```python
    model.fit(
        dataset, shuffle=False, callbacks=[KoopmanSchedule(), NonFiniteGuard()]
    )
    ```
    """

    def __init__(self, action="raise"):
        super().__init__()
        if action not in ("raise", "disable"):
            raise ValueError(
                f'`action` must be "raise" or "disable". Received: {action!r}'
            )
        self.action = action
        self.events = 0
        self._disabled = False
        self._skipped_before = 0
        self._kept = []

    def on_train_begin(self, logs=None):
        self.events = 0
        self._disabled = False

    def on_epoch_begin(self, epoch, logs=None):
        model = self.model
        self._skipped_before = self._skipped(model)
        self._kept = [
            ops.convert_to_numpy(v).copy() for v in self._operator_variables()
        ]
        if self._disabled:
            model.koopman_weight.assign(0.0)

    def on_epoch_end(self, epoch, logs=None):
        model = self.model
        operator_variables = self._operator_variables()
        of_operators = {id(v) for v in operator_variables}
        bad = [
            v
            for v in model.variables
            if not np.isfinite(
                ops.convert_to_numpy(v).astype("float64", copy=False)
            ).all()
        ]
        beyond_repair = [v.path for v in bad if id(v) not in of_operators]
        skipped = self._skipped(model) - self._skipped_before
        loss = (logs or {}).get("loss", 0.0)
        event = bool(bad) or skipped > 0 or not math.isfinite(loss)
        message = (
            f"Epoch {epoch + 1} was not finite: loss {loss}, {skipped} batches "
            f"skipped, variables {[v.path for v in bad] or 'all finite'}"
        )
        if event and (self.action == "raise" or beyond_repair):
            raise FloatingPointError(message)
        self._disabled = event and hasattr(model, "koopman_weight")
        if event:
            self.events += 1
            for variable, value in zip(
                operator_variables, self._kept, strict=True
            ):
                if any(variable is v for v in bad):
                    variable.assign(value)
            consequence = (
                "; Koopman weight 0 in the next epoch" if self._disabled else ""
            )
            print(f"\n{message}{consequence}")
        if logs is not None:
            logs["non_finite_batches"] = skipped
            logs["non_finite_events"] = self.events

    def _skipped(self, model):
        return int(getattr(model.optimizer, "skipped", 0))

    def _operator_variables(self):
        operators = getattr(self.model, "operators", ())
        return [v for operator in operators for v in operator.variables]

    def get_state(self):
        """Returns the JSON-plain state that `TrainingState` stores."""
        return {"events": self.events, "disabled": self._disabled}

    def set_state(self, state):
        """Takes the state that `get_state` returned."""
        self.events = state["events"]
        self._disabled = state["disabled"]
