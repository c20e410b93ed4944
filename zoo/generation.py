"""Text generation with a streaming language model."""

import numpy as np
from keras import ops

from .._backend import compile_function, import_keras_hub
from .prompts import check_stop_tokens, check_tokens, read_prompts

SAMPLERS = ("greedy", "top_k", "top_p")
TEMPERATURE, TOP_P = 1.0, 0.9
# Logits divided by less leave float32.
COLDEST = 1e-6
CANDIDATES = 50


def generate(
    model,
    prompt,
    max_length,
    sampler="top_p",
    temperature=TEMPERATURE,
    top_k=None,
    top_p=TOP_P,
    seed=None,
    stop_tokens=None,
    vocabulary=None,
    forbidden=(0, 1),
):
    """Continue prompts token by token.

    Each prompt is read and continued by the same loop over `model.step`, whose
    state is all that is kept of the past: a key-value cache for attention, a
    few numbers for a recurrence. Rows of a batch may have prompts of different
    lengths; by the greedy sampler each is continued as it would be alone. The
    loop is compiled once for each batch size, `max_length` and choice of
    sampler.

    Args:
        model: a built language model with the methods `initial_state` and
            `step` and the attribute `vocabulary_size`, V: a `KoopmanLM`. If it
            has a method `read`, that takes `step`'s place in the prompts, and
            `step` is told which rows are still within theirs, `whole`; if an
            attribute `tokens_per_read`, it is given that many at a time.
        prompt: what to continue: a string or a sequence of token ids in
            `[0, V)`; or, for a batch, a sequence of strings or of sequences of
            ids. None may be empty.
        max_length: int, length of the result in tokens, prompt included; more
            than the longest prompt has.
        sampler: `"greedy"` (the likeliest token), `"top_k"`, `"top_p"`, or a
            `keras_hub.samplers.Sampler`, which brings its own temperature,
            limits and seed.
        temperature: float >= 1e-6, divides the logits. Defaults to `1.0`.
        top_k: int in `[1, V]`, how many of the likeliest tokens are
            candidates, under `"top_p"` too. Defaults to 50, or V if that is
            less.
        top_p: float in `(0, 1]`. `"top_p"` takes the likeliest candidates
            until their probabilities sum to more than this. Defaults to `0.9`.
        seed: int, for the same text every time on a backend. Defaults to
            `None`, another text every time.
        stop_tokens: sequence of ids, or of strings that are each one token; a
            row ends with the first of them that is generated. Defaults to
            `None`: every row grows to `max_length`.
        vocabulary: object with `encode(text)` and `decode(ids)`, such as a
            `Vocabulary`; needed for text. Defaults to `None`.
        forbidden: sequence of ids that are never generated. Defaults to
            `(0, 1)`, `<pad>` and `<unk>`.

    Returns:
        Prompt and continuation: a string for a string, an int32 array `(n,)`
        for ids, a list of these for a batch.

    Raises:
        ImportError: if keras_hub is not installed.
        TypeError: if a prompt is neither text nor integers.
        ValueError: if an argument is out of its range, or text is given
            without a vocabulary.

    Example:

    ```python
    model = KoopmanLM(1000)
    model.build()
    generate(model, [5, 7], max_length=20, sampler="top_k", top_k=5, seed=0)
    ```

    Reference:
        - [Holtzman et al., 2019](https://arxiv.org/abs/1904.09751), top-p.
    """
    size = model.vocabulary_size
    rows, is_text, is_batch = read_prompts(prompt, vocabulary, size)
    lengths = [len(row) for row in rows]
    if max_length <= max(lengths):
        raise ValueError(
            "`max_length` counts the prompt and must exceed its length. "
            f"Received: max_length={max_length}, a prompt of {max(lengths)}"
        )
    forbidden = tuple(check_tokens("forbidden", forbidden, size).tolist())
    if len(set(forbidden)) == size:
        raise ValueError("`forbidden` must leave a token to be generated.")
    stop_tokens = check_stop_tokens(stop_tokens, vocabulary, size, forbidden)
    kind, sampler = _sampler(sampler, temperature, top_k, top_p, seed, size)

    ids = np.full((len(rows), max_length), -1, "int32")
    for row, given in zip(ids, rows, strict=True):
        row[: len(given)] = given
    is_given = np.arange(max_length) < np.array(lengths)[:, None]
    loop = _compiled_loop(model, kind, sampler, stop_tokens, forbidden)
    ids = loop(*map(ops.convert_to_tensor, (ids, is_given, min(lengths))))
    ids = ops.convert_to_numpy(ids)
    if stop_tokens is not None:
        is_stop = np.isin(ids, stop_tokens) & ~is_given
        ends = np.where(is_stop.any(1), is_stop.argmax(1) + 1, max_length)
        ids = [row[:end] for row, end in zip(ids, ends, strict=True)]
    results = list(ids)
    if is_text:
        results = [vocabulary.decode(row) for row in results]
    return results if is_batch else results[0]


def _compiled_loop(model, kind, sampler, stop_tokens, forbidden):
    """`(ids, is_given, start) -> ids`, compiled once and kept with the model.

    All that changes the code of the loop is part of the key: replaced blocks
    and, since a quantised layer has other variables, the variables.
    """
    variables = [*model.trainable_variables, *model.non_trainable_variables]
    key = (
        kind,
        stop_tokens,
        forbidden,
        getattr(model, "replaced", ()),
        tuple(map(id, variables)),
    )
    # Not by `setattr`, which tracks what it is given as part of the model.
    loops = vars(model).setdefault("_generation_loops", {})
    if key not in loops:
        loop = compile_function(
            _generation_loop(model, sampler, stop_tokens, forbidden),
            variables,
            updated=sampler.variables,
        )
        # The variables are kept alive, so that no id is given away again.
        loops[key] = loop, sampler, variables
    loop, compiled_sampler, _ = loops[key]
    if compiled_sampler is not sampler:
        for state, fresh in zip(
            compiled_sampler.variables, sampler.variables, strict=True
        ):
            state.assign(fresh.value)
    return loop


def _generation_loop(model, sampler, stop_tokens, forbidden):
    is_forbidden = np.isin(np.arange(model.vocabulary_size), forbidden)

    def loop(ids, is_given, start):
        def next_logits(ids, state, index):
            batch, options = ids.shape[0], {}
            token = ops.slice(ids, (0, index - 1), (batch, 1))
            if hasattr(model, "read"):
                # Within a longer prompt, as in what was read of it.
                inside = ops.slice(is_given, (0, index), (batch, 1))
                options["whole"] = inside[:, 0]
            logits, state = model.step(token, state, index - 1, **options)
            logits = ops.cast(logits[:, 0], "float32")
            return ops.where(is_forbidden, -1e9, logits), None, state

        # Up to the end of the shortest prompt nothing is sampled.
        state = read_prompt(
            model,
            getattr(model, "read", model.step),
            ids,
            model.initial_state(*ids.shape),
            start - 1,
        )
        return sampler(
            next_logits,
            ids,
            cache=state,
            index=start,
            mask=is_given,
            stop_token_ids=stop_tokens,
            model=model,
        )

    return loop


def read_prompt(model, read, ids, state, length):
    """The state after the first `length` of the ids `(B, N)`, a tensor.

    As many at a time as the model takes (`tokens_per_read`), the rest one by
    one. No use is made of the logits, so a compiler drops the head.
    """
    size = getattr(model, "tokens_per_read", 1)

    def reader(count):
        def body(place, state):
            index = place * count
            tokens = ops.slice(ids, (0, index), (ids.shape[0], count))
            return read(tokens, state, index)[1]

        return body

    whole = 0
    if size > 1 and ids.shape[1] >= size:
        state = ops.fori_loop(0, length // size, reader(size), state)
        whole = length // size * size
    return ops.fori_loop(whole, length, reader(1), state)


def _sampler(sampler, temperature, top_k, top_p, seed, vocabulary_size):
    """A key without the seed, and the keras_hub sampler, of the arguments."""
    samplers = import_keras_hub().samplers
    if isinstance(sampler, samplers.Sampler):
        options = temperature, top_k, top_p, seed
        if options != (TEMPERATURE, None, TOP_P, None):
            raise ValueError(
                "`temperature`, `top_k`, `top_p` and `seed` go with the name "
                "of a sampler, not with a sampler object. Received: "
                f"{options} beside {type(sampler).__name__}"
            )
        return sampler, sampler
    if sampler not in SAMPLERS:
        raise ValueError(
            f"`sampler` must be one of {SAMPLERS} or a keras_hub Sampler. "
            f"Received: {sampler!r}"
        )
    if not temperature >= COLDEST:
        raise ValueError(
            f"`temperature` must be at least {COLDEST} (for the likeliest "
            f"token, use sampler='greedy'). Received: {temperature}"
        )
    if top_k is None:
        top_k = min(CANDIDATES, vocabulary_size)
    if not isinstance(top_k, int) or not 1 <= top_k <= vocabulary_size:
        raise ValueError(
            "`top_k` must be an integer from 1 to the vocabulary_size "
            f"{vocabulary_size}. Received: {top_k}"
        )
    if not 0 < top_p <= 1:
        raise ValueError(f"`top_p` must be in (0, 1]. Received: {top_p}")
    common = {"temperature": temperature}
    if sampler == "greedy":
        made = samplers.GreedySampler(**common)
    elif sampler == "top_k":
        made = samplers.TopKSampler(top_k, seed, **common)
    else:
        made = samplers.TopPSampler(top_p, top_k, seed, **common)
    return (sampler, temperature, top_k, top_p), made
