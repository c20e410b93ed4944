"""The loss of a text by the very steps that would generate it."""

from keras import ops

from .._backend import compile_function
from ..datasets.vocabulary import check_ids
from .exit_decoding import ExitDecoder
from .exit_measures import log_probability


def score_steps(model, tokens, full_depth=False):
    """Score given tokens as they are decoded, one step each.

    What is timed and what is scored are one loop, compiled once for each shape
    and kept with the model.

    Args:
        model: a built language model with `initial_state` and `step`, or an
            `ExitDecoder`.
        tokens: int array `(B, N)`, N > 1.
        full_depth: bool, whether an `ExitDecoder` reads them at full depth
            instead, for comparison. Defaults to `False`.

    Returns:
        NumPy arrays `(B, N - 1)`: the negative log-likelihood of tokens 1 to
        N - 1, float32, in nats; and the exit it was told at, int32, the last
        one at full depth, 0 for a model without exits.

    Raises:
        ValueError: if the tokens are not such an array of the model's ids.
    """
    tokens = check_ids(tokens, model.vocabulary_size).astype("int32")
    if tokens.ndim != 2 or tokens.shape[1] < 2:
        raise ValueError(
            "`tokens` must have the shape (batch, length), length at least 2. "
            f"Received: {tokens.shape}"
        )
    variables = [*model.trainable_variables, *model.non_trainable_variables]
    loops = vars(model).setdefault("_score_loops", {})
    # A quantized model has other variables; these are kept alive, so that no
    # id is given away again.
    key = full_depth, tuple(map(id, variables))
    if key not in loops:
        step = model.read if full_depth else model.step
        loops[key] = compile_function(_loop(model, step), variables), variables
    scores = loops[key][0](ops.convert_to_tensor(tokens))
    return tuple(map(ops.convert_to_numpy, scores))


def _loop(model, step):
    routed = isinstance(model, ExitDecoder)
    last = len(getattr(model, "blocks", (0,))) - 1

    def loop(tokens):
        batch, length = tokens.shape

        def body(t, carry):
            state, losses, exits = carry
            pair = ops.slice(tokens, (0, t), (batch, 2))
            logits, state = step(pair[:, :1], state, t)
            nll = -log_probability(logits, pair[:, 1:])
            losses = ops.slice_update(losses, (0, t), nll)
            if routed:
                left = state["exit"][:, None]
                exits = ops.slice_update(exits, (0, t), left)
            return state, losses, exits

        start = (
            model.initial_state(batch, length),
            ops.zeros((batch, length - 1), "float32"),
            ops.full((batch, length - 1), last, "int32"),
        )
        return ops.fori_loop(0, length - 1, body, start)[1:]

    return loop
