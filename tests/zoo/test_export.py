"""Models as ONNX files, run by onnxruntime, and as a SavedModel."""

import keras
import numpy as np
import orrery
import pytest
from keras import ops
from orrery.zoo import HamiltonianNet
from orrery.zoo.koopman_lm import KoopmanLM

VOCABULARY_SIZE, LENGTH = 50, 8
CONVERTERS = {"jax": "jax2onnx", "tensorflow": "tf2onnx"}


@pytest.fixture
def onnxruntime():
    backend = keras.backend.backend()
    if backend not in CONVERTERS:
        pytest.skip(f"{backend}: slow, and does not know RMSNorm")
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


# === Mechanics: what is exported has never been called ===
STATES = np.random.default_rng(1).normal(size=(3, 2)).astype("float32")


@pytest.mark.filterwarnings("ignore")
def test_onnxruntime_agrees_on_a_trajectory(onnxruntime, tmp_path):
    path = tmp_path / "model.onnx"
    model = orrery.load("hamiltonian_pendulum")
    model.export(path, format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(str(path))
    (found,) = session.run(None, {"states": STATES})
    expected = ops.convert_to_numpy(model(STATES))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("num_controls", [0, 1])
def test_saved_model_agrees_on_a_trajectory(num_controls, tmp_path):
    if keras.backend.backend() == "torch":
        pytest.skip("PyTorch's exporter takes no such inputs")
    tensorflow = pytest.importorskip("tensorflow")
    model = HamiltonianNet(
        1, hidden_dim=4, num_steps=3, num_controls=num_controls
    )
    model.build()
    inputs = STATES
    if num_controls:
        model.control_kernel.assign([[0.5]])
        controls = np.ones((3, 3, 1), "float32")
        inputs = {"q": STATES[:, :1], "p": STATES[:, 1:], "controls": controls}
    model.export(tmp_path / "model", verbose=False)
    loaded = tensorflow.saved_model.load(tmp_path / "model")
    found = loaded.serve(inputs)
    expected = ops.convert_to_numpy(model(inputs))
    np.testing.assert_allclose(found, expected, atol=1e-5)
