"""The loop of a long roll-out, as a function that can be compiled."""

from keras import ops

from .compensated import Compensated

UNROLLED = 16


def rollout_loop(stepper, push, num_steps, save_every):
    """A function `(q, p, controls=None)` to the states saved.

    What rounding takes from q and p is remembered (`Compensated`).

    Args:
        stepper: function without arguments, see `MechanicalModel.stepper`;
            called inside of the loop, whose tracing then sees the weights.
        push: function from controls `(..., m)` to forces `(..., n)`.
        num_steps: int, a multiple of `save_every`.
        save_every: int.

    Returns:
        A function of tensors `(B, n)`, `(B, n)` and, perhaps,
        `(saves, save_every, B, m)`; it returns q and p `(saves, B, n)`.
    """
    # As many steps in a row share their forces, where nothing pushes.
    chunk = max(k for k in range(1, UNROLLED + 1) if not save_every % k)

    def loop(q, p, controls=None):
        step = stepper()

        def save(state, pushes):
            if pushes is None:
                state = _repeat(
                    lambda _, state: step(*state, None, chunk)[-1],
                    save_every // chunk,
                    state,
                )
            else:
                state = _repeat(
                    lambda k, state: step(*state, pushes[k], 1)[-1],
                    save_every,
                    state,
                )
            return state, state

        pushes = None if controls is None else push(controls)
        state = tuple(Compensated(x, ops.zeros_like(x)) for x in (q, p))
        _, saved = ops.scan(save, state, pushes, length=num_steps // save_every)
        return [x.value for x in saved]

    return loop


def _repeat(function, times, state):
    """`state = function(k, state)`, a loop only where there is one."""
    if times == 1:
        return function(0, state)
    return ops.fori_loop(0, times, function, state)
