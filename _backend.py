"""The one place that asks which backend is running."""

import contextlib
import functools
import sys

import keras


def compile_function(function, variables, updated=()):
    """Compile a function of tensors for repeated calls without gradients.

    Args:
        function: callable of tensors that returns a structure of tensors.
        variables: list of `keras.Variable`, those that `function` reads.
        updated: list of `keras.Variable`, those that `function` assigns.

    Returns:
        A callable with the arguments and the result of `function`. It is
        traced once per shapes and dtypes on JAX and TensorFlow; PyTorch runs
        it eagerly.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(function)
    if backend == "torch":
        import torch

        return torch.no_grad()(function)
    import jax

    lifted = [*variables, *updated]

    @jax.jit
    def stateless(values, *arguments):
        mapping = zip(lifted, values, strict=True)
        with keras.StatelessScope(state_mapping=mapping) as scope:
            result = function(*arguments)
        return result, [scope.get_current_value(v) for v in updated]

    def compiled(*arguments):
        result, values = stateless([v.value for v in lifted], *arguments)
        for variable, value in zip(updated, values, strict=True):
            variable.assign(value)
        return result

    return compiled


def materialise(tensors):
    """Have JAX compute these tensors here, once.

    Fused into what follows, the steps of a doubling scan would each be
    recomputed by all later ones. PyTorch and TensorFlow fuse nothing by
    default; TensorFlow with `jit_compile=True` does, and may recompute: there
    is no such barrier for it, the values are the same.

    Args:
        tensors: a structure of tensors.

    Returns:
        The same structure, the same values.
    """
    if keras.backend.backend() != "jax":
        return tensors
    import jax

    return jax.lax.optimization_barrier(tensors)


def rounds_products():
    """Whether a float32 product may be one of rounded factors.

    JAX does that on every accelerator, TensorFlow on a GPU unless
    TensorFloat-32 is switched off, PyTorch on a GPU where it is switched on.
    """
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.default_backend() != "cpu"
    if backend == "torch":
        import torch

        precise = torch.get_float32_matmul_precision() == "highest"
        return torch.cuda.is_available() and not precise
    import tensorflow as tf

    switched_on = tf.config.experimental.tensor_float_32_execution_enabled()
    return switched_on and bool(tf.config.list_physical_devices("GPU"))


def precise_matmul(a, b):
    """`a @ b` in full float32, also where `rounds_products`."""
    ops = keras.ops
    if not rounds_products():
        return ops.matmul(a, b)
    if keras.backend.backend() != "jax":  # Their switch is the whole program's.
        a, b = ops.cast(a, "float64"), ops.cast(b, "float64")
        return ops.cast(ops.matmul(a, b), "float32")
    import jax.numpy as jnp

    return jnp.matmul(a, b, precision="highest")


@functools.cache
def keep_freed_memory():
    """Lets the C library keep what PyTorch frees on a CPU; once is enough.

    glibc hands free memory at the top of its heap back to the system beyond
    twice the largest block it has seen unmapped, which counts up to 32 MiB
    (mallopt(3)). A loop over chunks of logits frees more in every round, and
    then pays for each page again. A block that is never touched sets the limit.
    """
    if keras.backend.backend() == "torch":
        import torch

        torch.empty(31 * 2**20, dtype=torch.uint8, device="cpu")


def looks_first(rows, tokens):
    """Whether attention had better look at its caches before it writes.

    XLA's CPU is faster so for a row and a token, and slower for a batch, whose
    caches it copies; where operations are called one by one, more are called.
    """
    return keras.backend.backend() == "jax" and rows == tokens == 1


def fuses_attention():
    """Whether the backend has a kernel of `ops.dot_product_attention`.

    JAX has none for CPUs: two einsums are faster there than what it composes
    (`attention` and `attention-fused` in `benchmarks/mixers.py`).
    """
    if keras.backend.backend() != "jax":
        return True
    import jax

    return jax.default_backend() != "cpu"


def import_keras_hub():
    """keras_hub, which brings TensorFlow: kept off the GPU of another backend.

    Raises:
        ImportError: if keras_hub is not installed; says how to install it.
    """
    try:
        import keras_hub
    except ModuleNotFoundError as error:
        if error.name != "keras_hub":
            raise
        raise ImportError(
            'keras_hub is not installed. Run: pip install "orrery[text]"'
        ) from error
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None and keras.backend.backend() != "tensorflow":
        # Too late if TensorFlow is at work on the GPU already.
        with contextlib.suppress(RuntimeError):
            tensorflow.config.set_visible_devices([], "GPU")
    return keras_hub
