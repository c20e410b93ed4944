"""A model as an ONNX file, run by onnxruntime."""

import keras
import numpy as np
import pytest
from keras import ops
from orrery.zoo.koopman_lm import KoopmanLM

VOCABULARY_SIZE, LENGTH = 50, 16


@pytest.fixture
def runtime():
    """The modules of a way to ONNX; JAX's is the one that can."""
    backend = keras.backend.backend()
    if backend != "jax":
        pytest.skip(
            "Keras exports through tf2onnx on TensorFlow, which does not know "
            "NumPy 2, and through TorchScript on PyTorch, which does not know "
            f"RMSNorm; the backend is {backend}"
        )
    pytest.importorskip("jax2onnx")
    return pytest.importorskip("onnxruntime")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("mixer", "replaced"),
    [
        (["attention", "koopman"], ()),
        (["resolvent", "attention"], (1,)),
        ("attention", (0, 1)),
    ],
)
def test_onnxruntime_agrees(mixer, replaced, runtime, tmp_path):
    keras.utils.set_random_seed(0)
    model = KoopmanLM(
        VOCABULARY_SIZE,
        dim=16,
        num_layers=2,
        num_heads=2,
        mixer=mixer,
        koopman={"operator": "gradient", "delays": 1, "lift_dim": 8},
        embedding_stddev=0.5,
    )
    model.build()
    model.set_replaced(replaced)
    path = tmp_path / "model.onnx"
    model.export(path, format="onnx", verbose=False, length=LENGTH)
    session = runtime.InferenceSession(str(path))
    generator = np.random.default_rng(0)
    for batch in (1, 3):
        shape = (batch, LENGTH)
        tokens = generator.integers(0, VOCABULARY_SIZE, shape).astype("int32")
        (logits,) = session.run(None, {"tokens": tokens})
        expected = ops.convert_to_numpy(model(tokens))
        np.testing.assert_allclose(logits, expected, atol=1e-4)
