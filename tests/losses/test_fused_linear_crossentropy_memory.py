"""No array of the fused loss has as many elements as the logits would."""

import functools

import keras
import numpy as np
import pytest
from keras import ops
from orrery.layers import LanguageHead
from orrery.losses import fused_linear_crossentropy
from orrery.losses.fused_linear_crossentropy import CHUNK_SIZE

# Of all arrays a chunk of logits is to be the largest, the weights included.
TOKENS, WIDTH, VOCABULARY = 8 * CHUNK_SIZE, 8, 600
RNG = np.random.default_rng(0)
TARGETS = RNG.integers(0, VOCABULARY, (2, TOKENS // 2)).astype("int32")
ARRAYS = tuple(
    RNG.normal(size=shape).astype("float32")
    for shape in (
        (*TARGETS.shape, WIDTH),
        (WIDTH, VOCABULARY),
        (VOCABULARY,),
    )
)


def naive():
    def loss(hidden, kernel, bias, training):
        logits = ops.matmul(hidden, kernel) + bias
        crossentropy = ops.sparse_categorical_crossentropy
        return ops.mean(crossentropy(TARGETS, logits, from_logits=True))

    return loss


def fused():
    def loss(hidden, kernel, bias, training):
        return fused_linear_crossentropy(
            hidden, kernel, TARGETS, bias=bias, with_gradient=training
        )[0]

    return loss


def untied_head():
    return loss_of(LanguageHead(VOCABULARY))


def tied_head():
    embedding = keras.layers.ReversibleEmbedding(VOCABULARY, WIDTH)
    embedding.build((None, None))
    return loss_of(LanguageHead(VOCABULARY, embedding))


def loss_of(head):
    """What the layer adds to the losses, as a function of its weights."""
    head.build(ARRAYS[0].shape)

    def loss(hidden, kernel, bias, training):
        table = ops.transpose(kernel)
        weights = {"kernel": kernel, "embeddings": table, "bias": bias}
        *_, losses = head.stateless_call(
            [weights[weight.name] for weight in head.trainable_weights],
            [],
            hidden,
            TARGETS,
            training=training,
            return_losses=True,
        )
        return losses[0]

    return loss


def sizes_on_jax(function, training):
    """Elements of every array of the jaxpr, those of its loops too."""
    import jax
    from jax.extend.core import jaxprs_in_params

    def sizes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (variable.aval.size for variable in equation.outvars)
            for inner in jaxprs_in_params(equation.params):
                yield from sizes(inner)

    if training:
        function = jax.value_and_grad(function, range(len(ARRAYS)))
    return sizes(jax.make_jaxpr(function)(*ARRAYS).jaxpr)


def sizes_on_tensorflow(function, training):
    """Elements of every tensor of the graph, those of its functions too."""
    import tensorflow as tf

    @tf.function
    def step(*arrays):
        with tf.GradientTape() as tape:
            tape.watch(arrays)
            loss = function(*arrays)
        return tape.gradient(loss, arrays) if training else loss

    graph = step.get_concrete_function(*map(tf.constant, ARRAYS)).graph
    definition = graph.as_graph_def(add_shapes=True)
    nodes = list(definition.node)
    for inner in definition.library.function:
        nodes.extend(inner.node_def)
    for node in nodes:
        # It would keep something of every round for the backward pass.
        assert not node.op.startswith("TensorList"), node.name
        for shape in node.attr["_output_shapes"].list.shape:
            yield tf.TensorShape(shape).num_elements()


def sizes_on_torch(function, training):
    """Elements of every operation's result, and of all that autograd keeps."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    sizes, kept = [], []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            result = operation(*args, **(kwargs or {}))
            sizes.extend(
                leaf.numel()
                for leaf in keras.tree.flatten(result)
                if isinstance(leaf, torch.Tensor)
            )
            return result

    def keep(tensor):
        kept.append(tensor.numel())
        return tensor

    arrays = [ops.convert_to_tensor(array) for array in ARRAYS]
    with (
        torch.set_grad_enabled(training),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        Record(),
    ):
        loss = function(*(array.requires_grad_(training) for array in arrays))
        if training:
            loss.backward()
    return [*sizes, sum(kept)]


SIZES = {
    "jax": sizes_on_jax,
    "tensorflow": sizes_on_tensorflow,
    "torch": sizes_on_torch,
}


def largest(head, training):
    sizes = SIZES[keras.backend.backend()]
    loss = functools.partial(head(), training=training)
    return max(sizes(loss, training))


@pytest.mark.parametrize("training", [True, False])
def test_the_logits_of_the_naive_loss_are_seen(training):
    assert largest(naive, training) >= TOKENS * VOCABULARY


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("head", [fused, untied_head, tied_head])
def test_no_array_is_larger_than_a_chunk_of_logits(head, training):
    assert largest(head, training) == CHUNK_SIZE * VOCABULARY


@pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="JAX says what it has planned"
)
@pytest.mark.parametrize("training", [True, False])
def test_compiled_memory_is_a_fraction_of_the_logits(training):
    import jax

    loss = functools.partial(fused(), training=training)
    if training:
        loss = jax.grad(loss, range(len(ARRAYS)))
    compiled = jax.jit(loss).lower(*ARRAYS).compile()
    temporary = compiled.memory_analysis().temp_size_in_bytes
    # A chunk is an eighth of them.
    assert temporary < 0.25 * 4 * TOKENS * VOCABULARY
