import keras
import numpy as np
import pytest
from keras import ops
from orrery.callbacks.koopman_monitor import KoopmanMonitor
from orrery.callbacks.non_finite_guard import NonFiniteGuard
from orrery.datasets import LanguageBatches
from orrery.layers import KoopmanOperator
from orrery.zoo.koopman_lm import KoopmanLM

DIM = 3


class StandIn:
    """A model of two operators, moved from the identity at random."""

    def __init__(self):
        self.operators = [KoopmanOperator(lift_dim=4) for _ in range(2)]
        generator = np.random.default_rng(0)
        for operator in self.operators:
            operator.build((None, None, DIM))
            kernel = ops.convert_to_numpy(operator.kernel)
            moved = kernel + 0.1 * generator.normal(size=kernel.shape)
            operator.kernel.assign(moved)

    def koopman_measures(self):
        return {"contribution": 0.25}


def record(tmp_path, **options):
    model, logs = StandIn(), {"loss": 5.0}
    monitor = KoopmanMonitor(tmp_path / "operators", **options)
    monitor.set_model(model)
    monitor.on_train_begin()
    for epoch in range(2):
        monitor.on_epoch_end(epoch, logs)
    files = [
        dict(np.load(tmp_path / "operators" / f"epoch_{epoch}.npz"))
        for epoch in (1, 2)
    ]
    return model, logs, files


def test_values_match_numpy(tmp_path):
    model, logs, files = record(tmp_path)
    for index, operator in enumerate(model.operators):
        matrix = ops.convert_to_numpy(operator.matrix()).astype("float64")
        eigenvalues = np.linalg.eigvals(matrix)
        np.testing.assert_allclose(
            np.sort_complex(files[1]["eigenvalues"][index]),
            np.sort_complex(eigenvalues),
            atol=1e-5,
        )
        assert files[1]["spectral_radius"][index] == pytest.approx(
            np.abs(eigenvalues).max(), rel=1e-5
        )
        fresh = KoopmanOperator(lift_dim=4)
        fresh.build((None, None, DIM))
        initial = ops.convert_to_numpy(fresh.matrix())
        assert files[1]["distance"][index] == pytest.approx(
            np.linalg.norm(matrix - initial) / np.linalg.norm(initial), rel=1e-5
        )
    assert logs["koopman_spectral_radius"] == files[1]["spectral_radius"].max()
    assert logs["koopman_distance"] == files[1]["distance"].mean()
    assert logs["koopman_contribution_fraction"] == 0.05
    assert "replaced_perplexity" not in files[1]


def test_draws_the_spectra_if_matplotlib_is_installed(tmp_path):
    pytest.importorskip("matplotlib")
    record(tmp_path)
    picture = (tmp_path / "operators" / "eigenvalues.png").read_bytes()
    assert picture.startswith(b"\x89PNG")


def test_evaluates_the_first_blocks_replaced(tmp_path):
    asked = []

    def perplexity(indices):
        asked.append(indices)
        return 10.0 + len(indices)

    _, _, files = record(tmp_path, replaced_perplexity=perplexity, every=2)
    assert asked == [(), (0,), (0, 1)]
    assert "replaced_perplexity" not in files[0]
    assert files[1]["replaced_perplexity"].tolist() == [10.0, 11.0, 12.0]


def test_watching_changes_no_weight(tmp_path):
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, 11, size=(16, 9))

    def weights(callbacks):
        keras.utils.set_random_seed(0)
        model = KoopmanLM(11, 8, 2, 2, dropout=0.0, koopman={"lift_dim": 4})
        model.compile("adam")
        batches = LanguageBatches(tokens[:, :-1], tokens[:, 1:], batch_size=8)
        found = model.fit(
            batches,
            epochs=2,
            callbacks=callbacks(model),
            shuffle=False,
            verbose=0,
        )
        return model.get_weights(), found.history

    def watch(model):
        def perplexity(indices):
            model.set_replaced(indices)
            losses = model.predict(
                {"tokens": tokens[:4, :-1], "targets": tokens[:4, 1:]},
                verbose=0,
            )
            model.set_replaced(())
            return np.exp(losses.mean())

        monitor = KoopmanMonitor(tmp_path, tokens[:4], perplexity)
        return [monitor, NonFiniteGuard()]

    watched, history = weights(watch)
    bare, bare_history = weights(lambda model: [])
    for one, other in zip(watched, bare, strict=True):
        np.testing.assert_array_equal(one, other)
    assert history["loss"] == bare_history["loss"]
    last = np.load(tmp_path / "epoch_2.npz")
    assert history["koopman_held_out_skill"][1] == last["skill"].mean()
    curve = last["replaced_perplexity"]
    assert curve.shape == (3,) and len(set(curve.tolist())) == 3


def test_bad_input_is_named(tmp_path):
    with pytest.raises(ValueError, match="every"):
        KoopmanMonitor(tmp_path, every=0)
    monitor = KoopmanMonitor(tmp_path)
    monitor.set_model(keras.Sequential([keras.layers.Dense(1)]))
    with pytest.raises(TypeError, match="operators"):
        monitor.on_train_begin()
