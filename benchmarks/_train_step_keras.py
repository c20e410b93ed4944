"""The Keras side of `train_step.py`: models, `fit`, and what it costs."""

import time

import keras
import numpy as np
from _measure import peak_memory
from _train_step_task import PARITY_STEPS, WARMUP, measured, text
from orrery.callbacks import LagrangeMultiplier
from orrery.datasets.language_batches import LanguageBatches
from orrery.layers import LanguageHead
from orrery.metrics import Perplexity
from orrery.optimizers import GuardedOptimizer
from orrery.zoo import HamiltonianLM, KoopmanLM
from orrery.zoo.lstm_lm import LSTMLM

KOOPMAN_WEIGHT = 0.05
# Steps between two solves, and of a window of the overhead.
WINDOW = 10
WITHOUT_OPERATORS = {"koopman": None, "replacement": 0.0}
# Models that take the weights of another one.
FAMILY = {
    "base": "koopman",
    "preset_base": "preset",
    "untracked": "tracked",
}


class Batches(LanguageBatches):
    """`LanguageBatches` in the form that a model takes."""

    form = "fused"

    def __getitem__(self, index):
        inputs, targets, sample_weight = super().__getitem__(index)
        tokens = inputs["tokens"]
        if self.form == "fused":
            return inputs, targets, sample_weight
        if self.form == "gpt2":
            mask = np.ones_like(tokens)
            return {"token_ids": tokens, "padding_mask": mask}, targets
        return tokens, targets


class StepEnds(keras.callbacks.Callback):
    """Notes the end of every step; reading the loss waits for the device."""

    def on_train_begin(self, logs=None):
        self.marks = [time.perf_counter()]
        self.cpu = [time.process_time()]

    def on_train_batch_end(self, batch, logs=None):
        self.loss = float(logs["loss"])
        self.marks.append(time.perf_counter())
        self.cpu.append(time.process_time())


class HeadOnly(keras.Model):
    """Hidden states that are weights, and a head: all that `fit` has to do."""

    def __init__(self, shape, vocabulary_size, fused):
        super().__init__()
        self.hidden = self.add_weight(shape=shape, name="hidden")
        self.head = LanguageHead(vocabulary_size)
        self.fused = fused

    def build(self, input_shape=None):
        self.head.build(self.hidden.shape)

    def call(self, targets, training=False):
        hidden = keras.ops.convert_to_tensor(self.hidden)
        if self.fused:
            return self.head(hidden, targets, training=training)
        return self.head(hidden)


def backend_crossentropy(targets, logits):
    """The cross-entropy of full logits that each backend is at home with."""
    backend = keras.backend.backend()
    targets = keras.ops.cast(targets, "int32")  # Keras hands floats to a loss.
    if backend == "jax":
        import jax

        # That of optax, `softmax_cross_entropy_with_integer_labels`.
        picked = jax.numpy.take_along_axis(logits, targets[..., None], -1)
        return jax.nn.logsumexp(logits, axis=-1) - picked[..., 0]
    if backend == "torch":
        import torch

        return torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten().long(), reduction="none"
        ).view(targets.shape)
    import tensorflow as tf

    return tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)


def build(task, dropout, model=None, **changes):
    """A compiled model of the task, with the weights all processes share."""
    keras.utils.set_random_seed(0)
    variant, sizes = task["variant"], task["sizes"]
    kind = model or variant["model"]
    config = {**sizes["model"], "dropout": dropout}
    if kind == "gpt2":
        model = gpt2(sizes, dropout)
    elif kind == "lstm":
        base = KoopmanLM(**sizes["model"])
        base.build()
        model = LSTMLM.of_size(
            base.count_params(),
            base.vocabulary_size,
            base.dim,
            dropout=dropout,
        )
    elif kind in ("tracked", "untracked"):
        changes = {} if kind == "tracked" else {"energy_tokens": 0}
        model = HamiltonianLM(**{**config, **sizes["hamiltonian"]}, **changes)
    elif kind.startswith("preset"):
        operators = WITHOUT_OPERATORS if kind == "preset_base" else {}
        model = KoopmanLM.from_preset(
            sizes["preset"],
            load_weights=False,
            **{**config, **operators, **changes},
        )
    else:
        koopman = sizes["koopman"] if kind == "koopman" else None
        model = KoopmanLM(**config, koopman=koopman, **changes)
    if not model.built:
        model.build()
    share_weights(model, task, kind)
    if kind in ("koopman", "preset"):
        model.koopman_weight.assign(KOOPMAN_WEIGHT)
    compile_model(model, variant, kind)
    return model


def gpt2(sizes, dropout):
    """keras_hub's GPT-2 of the same sizes, with its own tied head."""
    from orrery._backend import import_keras_hub

    config = sizes["model"]
    backbone = import_keras_hub().models.GPT2Backbone(
        vocabulary_size=config["vocabulary_size"],
        num_layers=config["num_layers"],
        num_heads=config["num_heads"],
        hidden_dim=config["dim"],
        intermediate_dim=config["hidden_dim"],
        dropout=dropout,
        max_sequence_length=sizes["length"],
    )
    logits = backbone.token_embedding(backbone.output, reverse=True)
    return keras.Model(backbone.input, logits)


def weights_by_path(model):
    return {
        weight.path.removeprefix(f"{model.name}/"): weight
        for weight in model.weights
    }


def share_weights(model, task, kind):
    """Take the weights of the family, if they were written before."""
    if task["kind"] in ("prepare", "head_memory"):
        return
    family = FAMILY.get(kind, kind)
    with np.load(f"{task['folder']}/weights-{family}.npz") as file:
        for path, weight in weights_by_path(model).items():
            weight.assign(file[path])


def compile_model(model, variant, kind):
    options = {"jit_compile": True} if variant["compiled"] == "xla" else {}
    adamw = {"learning_rate": 1e-3, "weight_decay": 0.01}
    if kind == "gpt2":
        options["loss"] = keras.losses.SparseCategoricalCrossentropy(
            from_logits=True
        )
        optimizer = keras.optimizers.AdamW(**adamw, global_clipnorm=0.5)
    else:
        inner = keras.optimizers.AdamW(**adamw)
        optimizer = GuardedOptimizer(inner, clip_norm=0.5)
    if variant["head"] == "naive":
        options["loss"] = backend_crossentropy
    elif variant["head"] == "fused":
        options["weighted_metrics"] = [Perplexity()]
    model.compile(optimizer, **options)


def batches(task, steps):
    sizes = task["sizes"]
    rows = steps * sizes["batch"]
    x, y = (array[:rows] for array in text(sizes, steps))
    data = Batches(x, y, batch_size=sizes["batch"], shuffle=False)
    model, head = (task["variant"][name] for name in ("model", "head"))
    data.form = model if model == "gpt2" else head
    return data


def fit(model, data, epochs=1):
    """Train; the ends of the steps and the history."""
    ends = StepEnds()
    callbacks = [ends]
    if getattr(model, "energy_tokens", 0):
        callbacks.append(LagrangeMultiplier(initial=1.0))
    history = model.fit(
        data, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks
    )
    return ends, history.history


def prepare(task):
    """Write the initial weights of a family."""
    model = build(task, dropout=0.0)
    family = FAMILY.get(task["variant"]["model"], task["variant"]["model"])
    arrays = {
        path: keras.ops.convert_to_numpy(weight)
        for path, weight in weights_by_path(model).items()
    }
    np.savez(f"{task['folder']}/weights-{family}.npz", **arrays)
    return {}


def parity(task):
    """Losses and weights of a few steps on one batch, without dropout."""
    kind = task["variant"]["model"]
    # As a probe the operators leave the language model as it is without them.
    changes = {"detach": "both"} if kind == "koopman" else {}
    model = build(task, dropout=0.0, **changes)
    _, history = fit(model, batches(task, 1), epochs=PARITY_STEPS)
    losses = history["loss"]
    if "perplexity" in history:
        losses = np.log(history["perplexity"]).tolist()
    weights = {
        path: keras.ops.convert_to_numpy(weight)
        for path, weight in weights_by_path(model).items()
        if weight.trainable
    }
    return losses, weights


def timing(task):
    """Seconds of every step of one `fit`, and its memory."""
    model = build(task, task["sizes"]["dropout"])
    data = batches(task, 1 + WARMUP + task["steps"])
    memory = peak_memory()
    ends, _ = fit(model, data)
    for operator in getattr(model, "operators", ()):
        if not operator.distance_from_initial() > 0:
            raise AssertionError(f"{operator.name} was never solved")
    parameters = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    return measured(ends.marks, ends.loss, parameters, memory)


def overhead(task):
    """The steps of two models, window beside window."""
    dropout = task["sizes"]["dropout"]
    models = [build(task, dropout, model=name) for name in task["pair"]]
    for model in models:
        fit(model, batches(task, 1 + WARMUP))
    data = batches(task, 1 + WINDOW)
    pairs = []
    for turn in range(task["windows"]):
        pair = [None, None]
        for index in (0, 1) if turn % 2 else (1, 0):
            ends, _ = fit(models[index], data)
            # The first step of a `fit` also starts its iterator.
            pair[index] = {
                "seconds": (ends.marks[-1] - ends.marks[1]) / WINDOW,
                "cpu_seconds": (ends.cpu[-1] - ends.cpu[1]) / WINDOW,
            }
        pairs.append(pair)
    return {"pairs": pairs}


def head_memory(task):
    """Memory that head and loss add, beyond that of a tiny copy of them."""
    sizes, variant = task["sizes"], task["variant"]
    vocabulary_size = sizes["model"]["vocabulary_size"]
    memory = []
    for batch, words in ((1, 50), (sizes["batch"], vocabulary_size)):
        shape = (batch, sizes["length"], sizes["model"]["dim"])
        model = HeadOnly(shape, words, fused=variant["head"] == "fused")
        model.build()
        compile_model(model, variant, "head")
        targets = np.zeros(shape[:2], "int32")
        model.fit(targets, targets, batch_size=batch, epochs=2, verbose=0)
        memory.append(peak_memory())
    return {"memory": memory[1] - memory[0]}
