"""Text at the speed of drafts, and in the words of the whole network."""

import keras
import numpy as np
from keras import ops

from .._backend import compile_function
from .._checks import check_integer, check_real
from .generation import COLDEST, read_prompt
from .prompts import check_tokens, read_prompts


def speculate(
    model,
    prompt,
    max_length,
    draft_length=4,
    temperature=0.0,
    seed=None,
    vocabulary=None,
    forbidden=(0, 1),
    return_stats=False,
):
    """Continue prompts; the first exit drafts, the whole network decides.

    The layers up to the first exit draft some tokens, one by one; then the
    others read all of them in one pass, from the states that drafting has
    left. Drafts are kept as far as the whole network agrees, and its own token
    follows. What comes out is what it would have written alone: with
    `temperature=0` the same tokens, up to rounding where two are equally
    likely; else tokens of the same distribution. Rows of a batch advance
    together, by what the least lucky one keeps. The loop is compiled once for
    each batch size, `max_length` and choice of arguments.

    Args:
        model: a built `EarlyExitLM` of at least two blocks.
        prompt: a string or a sequence of token ids, or for a batch a sequence
            of these, of one length in tokens.
        max_length: int, length of the result in tokens, prompt included.
        draft_length: int, tokens drafted at a time. Defaults to `4`.
        temperature: float, 0 or at least 1e-6, divides the logits; 0 takes
            the likeliest token. Defaults to `0`.
        seed: int, for the same text every time on a backend, where
            `temperature` is above 0. Defaults to `None`.
        vocabulary: see `generate`.
        forbidden: likewise.
        return_stats: bool. Defaults to `False`.

    Returns:
        What `generate` returns; with `return_stats` also a dict:
        `acceptance_rate`, the share of drafts that were kept of those that
        were read up to the first that was not; `tokens_per_pass`, the mean
        number of tokens for each pass of the deeper layers; `passes`.

    Raises:
        ValueError: if an argument is out of its range, or the prompts of a
            batch differ in length.

    Reference:
        - [Leviathan et al., 2022](https://arxiv.org/abs/2211.17192)
        - [Elhoushi et al., 2024](https://arxiv.org/abs/2404.16710), drafts by
          an exit.
    """
    model.require_exit("speculate")
    check_integer("draft_length", draft_length, 1)
    check_real(
        "temperature",
        temperature,
        f"0 or at least {COLDEST}",
        lambda t: t == 0 or t >= COLDEST,
    )
    size = model.vocabulary_size
    rows, is_text, is_batch = read_prompts(prompt, vocabulary, size)
    length = len(rows[0])
    if any(len(row) != length for row in rows):
        raise ValueError(
            "`prompt` must hold prompts of one length in tokens. Received: "
            f"lengths {sorted({len(row) for row in rows})}"
        )
    if max_length <= length:
        raise ValueError(
            "`max_length` counts the prompt and must exceed its length. "
            f"Received: max_length={max_length}, a prompt of {length}"
        )
    forbidden = tuple(check_tokens("forbidden", forbidden, size).tolist())
    if len(set(forbidden)) == size:
        raise ValueError("`forbidden` must leave a token to be generated.")
    loop = _compiled(model, draft_length, float(temperature), forbidden)
    ids = np.zeros((len(rows), max_length + draft_length + 1), "int32")
    ids[:, :length] = rows
    # Chance is drawn beforehand: a loop of JAX can hold no generator.
    draws = (max_length - length, len(rows), 3 * draft_length + 1)
    chance = keras.random.uniform(
        draws if temperature else (1, 1, 1), seed=seed
    )
    ids, passes, kept, read = loop(
        *map(ops.convert_to_tensor, (ids, np.int32(length), chance))
    )
    results = list(ops.convert_to_numpy(ids)[:, :max_length])
    if is_text:
        results = [vocabulary.decode(row) for row in results]
    results = results if is_batch else results[0]
    if not return_stats:
        return results
    passes, kept, read = (
        int(ops.convert_to_numpy(x)) for x in (passes, kept, read)
    )
    return results, {
        "acceptance_rate": kept / max(1, read),
        "tokens_per_pass": (max_length - length) / passes,
        "passes": passes,
    }


def _compiled(model, draft_length, temperature, forbidden):
    """`(ids, length, chance) -> (ids, passes, kept, read)`, kept."""
    key = draft_length, temperature, forbidden, tuple(map(id, model.variables))
    loops = vars(model).setdefault("_speculation_loops", {})
    if key not in loops:
        loop = compile_function(
            _Speculation(model, draft_length, temperature, forbidden),
            model.variables,
        )
        # The variables are kept alive, so that no id is given away again.
        loops[key] = loop, model.variables
    return loops[key][0]


class _Speculation:
    """The loop over passes, in tensors.

    `chance`, `(passes, B, 3 n + 1)`, uniform in [0, 1), are for each pass the
    numbers by which n drafts are drawn, n are judged and n + 1 replaced.
    """

    def __init__(self, model, draft_length, temperature, forbidden):
        self.model = model
        self.draft_length = draft_length
        self.temperature = temperature
        self.is_forbidden = np.isin(np.arange(model.vocabulary_size), forbidden)

    def __call__(self, ids, length, chance):
        model = self.model
        last = ids.shape[1] - self.draft_length - 1

        start = model.initial_state(*ids.shape)
        caches = read_prompt(model, model.step, ids, start, length - 1)
        zero = ops.zeros((), "int32")
        ids, _, _, passes, kept, seen = ops.while_loop(
            lambda ids, length, *_: length < last,
            lambda *state: self._pass(chance, *state),
            (ids, length, caches, zero, zero, zero),
        )
        return ids, passes, kept, seen

    def _pass(self, chance, ids, length, caches, passes, kept, seen):
        """Draft, read, keep; all caches hold what is before `length - 1`."""
        model, caches = self.model, list(caches)
        shallow, batch = model.blocks[0], ids.shape[0]
        token = ops.slice(ids, (0, length - 1), (batch, 1))
        chance = ops.take(
            chance, ops.minimum(passes, chance.shape[0] - 1), axis=0
        )
        states, drafts, guesses = [], [], []
        for step in range(self.draft_length + 1):
            h = model.token_embedding(token)
            for depth in range(shallow):
                h, caches[depth] = model.decoder_layers[depth].step(
                    h, caches[depth], length - 1 + step
                )
            states.append(h)
            if step < self.draft_length:
                guesses.append(self._logits(h, 0))
                token = self._choose(guesses[-1], chance[:, step : step + 1])
                drafts.append(token)
        h = ops.concatenate(states, axis=1)
        for depth in range(shallow, len(caches)):
            h, caches[depth] = model.decoder_layers[depth].step(
                h, caches[depth], length - 1
            )
        drafts = ops.concatenate(drafts, axis=1)
        guesses = ops.concatenate(guesses, axis=1)
        agrees, instead = self._judge(
            drafts, guesses, self._logits(h, -1), chance[:, self.draft_length :]
        )
        agrees = ops.cast(agrees, "int32")
        # Rows keep what all of them keep; none is sent back by another's luck.
        common = ops.min(ops.sum(ops.cumprod(agrees, axis=1), axis=1))
        here = ops.arange(0, self.draft_length + 1, dtype="int32")
        padded = ops.pad(drafts, ((0, 0), (0, 1)))
        stays = ops.pad(agrees, ((0, 0), (0, 1))) > 0
        words = ops.where(
            ops.logical_and(stays, here <= common), padded, instead
        )
        ids = ops.slice_update(ids, (0, length), words)
        read = ops.minimum(common + 1, self.draft_length)
        return (
            ids,
            length + common + 1,
            tuple(caches),
            passes + 1,
            kept + common,
            seen + read,
        )

    def _logits(self, h, exit):
        z = ops.cast(self.model.exit_logits(h, exit), "float32")
        return ops.where(self.is_forbidden, -1e9, z)

    def _choose(self, logits, chance):
        """Tokens `(B, M)` from logits `(B, M, V)` and chance `(B, M)`."""
        if not self.temperature:
            return ops.cast(ops.argmax(logits, axis=-1), "int32")
        return _draw(ops.softmax(logits / self.temperature), chance)

    def _judge(self, drafts, guesses, logits, chance):
        """Which drafts are kept, and what stands where one is not.

        Returns:
            bool `(B, n)` and int32 `(B, n + 1)`, the last one after all drafts.
        """
        if not self.temperature:
            choice = self._choose(logits, None)
            return drafts == choice[:, :-1], choice
        p, q = (ops.softmax(z / self.temperature) for z in (logits, guesses))
        of_p, of_q = (
            ops.take_along_axis(x, drafts[..., None], axis=-1)[..., 0]
            for x in (p[:, :-1], q)
        )
        luck, more = ops.split(chance, [self.draft_length], axis=1)
        # Where p = q nothing is left over, and no draft is turned down.
        rest = ops.maximum(p[:, :-1] - q, 0.0)
        rest = ops.where(self.is_forbidden, 0.0, rest + 1e-30)
        rest = ops.concatenate([rest, p[:, -1:]], axis=1)
        return luck * of_q < of_p, _draw(rest, more)


def _draw(weights, chance):
    """Tokens `(...)` with the odds of weights `(..., V)`, by inversion."""
    upto = ops.cumsum(weights, axis=-1)
    below = upto <= chance[..., None] * upto[..., -1:]
    token = ops.sum(ops.cast(below, "int32"), axis=-1)
    return ops.minimum(token, weights.shape[-1] - 1)
