"""One `.keras` file of all potentials on every backend."""

import keras
import numpy as np
import pytest
from orrery.layers import (
    HarmonicPotential,
    HenonHeilesPotential,
    KeplerPotential,
    MLPPotential,
    PairwisePotential,
    PendulumPotential,
    RadialPotential,
    TwoLayerPotential,
)
from orrery.testing import compare_backends, updated_weights

Q = np.random.default_rng(0).normal(size=(8, 2)).astype("float32")


def potentials():
    return {
        "mlp": MLPPotential(8),
        "two_layer": TwoLayerPotential(8),
        "radial": RadialPotential(8),
        "pairwise": PairwisePotential(2, 8),
        "harmonic": HarmonicPotential(),
        "pendulum": PendulumPotential(),
        "henon_heiles": HenonHeilesPotential(),
        "kepler": KeplerPotential(),
    }


def build(path):
    keras.utils.set_random_seed(0)
    q = keras.Input((2,))
    energies = [
        keras.layers.Reshape((1,))(potential(q))
        for potential in potentials().values()
    ]
    keras.Model(q, keras.layers.Concatenate()(energies)).save(path)


def run(path):
    model = keras.saving.load_model(path)
    q = keras.ops.convert_to_tensor(Q)
    arrays = {"energy": model(q)}
    for layer in model.layers:
        if hasattr(layer, "force"):
            arrays[f"force.{layer.name}"] = layer.force(q)
    arrays = {k: keras.ops.convert_to_numpy(v) for k, v in arrays.items()}
    updated = updated_weights(
        model,
        keras.optimizers.SGD(1e-3),
        Q,
        np.zeros((len(Q), len(potentials())), "float32"),
        loss="mse",
    )
    return arrays | {f"sgd.{name}": value for name, value in updated.items()}


@pytest.mark.cross_backend
def test_backends_agree(tmp_path):
    differences = compare_backends(__file__, tmp_path)
    forces = [name for name in differences if name.startswith("force.")]
    assert len(forces) == len(potentials())
    assert max(d.relative for d in differences.values()) < 1e-5
