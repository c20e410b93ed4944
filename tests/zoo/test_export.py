"""A model as an ONNX file, run by onnxruntime."""

import keras
import numpy as np
import pytest
from keras import ops
from orrery.zoo.koopman_lm import KoopmanLM

VOCABULARY_SIZE, LENGTH = 50, 8
CONVERTERS = {"jax": "jax2onnx", "tensorflow": "tf2onnx"}


@pytest.fixture
def onnxruntime():
    backend = keras.backend.backend()
    if backend not in CONVERTERS:
        pytest.skip(f"the exporter of {backend} does not know RMSNorm")
    pytest.importorskip(CONVERTERS[backend])
    return pytest.importorskip("onnxruntime")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("replaced", [(), (0, 2)])
def test_onnxruntime_agrees(replaced, onnxruntime, tmp_path):
    keras.utils.set_random_seed(0)
    model = KoopmanLM(
        VOCABULARY_SIZE,
        dim=16,
        num_layers=3,
        num_heads=2,
        mixer=["attention", "koopman", "resolvent"],
        koopman={"operator": "gradient", "delays": 1, "lift_dim": 8},
        embedding_stddev=0.5,
    )
    model.build()
    model.set_replaced(replaced)
    path = tmp_path / "model.onnx"
    model.export(path, format="onnx", verbose=False, length=LENGTH)
    session = onnxruntime.InferenceSession(str(path))
    generator = np.random.default_rng(0)
    for batch in (1, 3):
        shape = (batch, LENGTH)
        tokens = generator.integers(0, VOCABULARY_SIZE, shape).astype("int32")
        (logits,) = session.run(None, {"tokens": tokens})
        expected = ops.convert_to_numpy(model(tokens))
        np.testing.assert_allclose(logits, expected, atol=1e-4)
