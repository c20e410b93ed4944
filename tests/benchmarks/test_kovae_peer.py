"""The peers of KoVAE's training step are the models they stand beside."""

import importlib
from pathlib import Path

import numpy as np
import pytest
from keras import ops

torch = pytest.importorskip("torch")

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def steps(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = importlib.import_module("kovae_step")
    monkeypatch.setattr(module, "BATCH", 3)
    return module


def parts(batch):
    return [torch.from_numpy(batch[n]) for n in batch]


def test_the_peer_is_kovae(steps):
    model = steps.keras_model("KoVAE", margin=0.05)
    # A radius that is penalised, and inputs that act.
    generator = np.random.default_rng(0)
    model.operator.kernel.assign(1.02 * np.eye(64))
    model.operator.input_kernel.assign(0.1 * generator.normal(size=(3, 64)))
    peer, batch = steps.peer_of(model).eval(), steps.windows(0)
    past, controls, disturbances, future = parts(batch)
    with torch.no_grad():
        loss, forecast = peer(
            past, torch.cat([controls, disturbances], dim=-1), future
        )
    model.compile("sgd")
    found = model.evaluate(batch, batch_size=3, verbose=0, return_dict=True)
    assert found["penalty"] > 1e-3
    assert float(loss) == pytest.approx(found["loss"], rel=1e-5)
    np.testing.assert_allclose(
        forecast.numpy(), model.predict_on_batch(batch), atol=1e-4
    )


def test_the_peer_is_the_reports_model(steps):
    """Of means; a call of the model draws from its prior."""
    model = steps.keras_model("effective")
    peer, batch = steps.peer_of(model).eval(), steps.windows(0)
    past, controls, disturbances, _ = parts(batch)
    rows = torch.cat(
        [past, controls[:, : steps.ROWS], disturbances[:, : steps.ROWS]], dim=-1
    )
    mean, logvar, _ = model.encoder(rows.numpy())
    z = peer.encoder(rows)
    for ours, theirs in zip((mean, logvar), z, strict=True):
        np.testing.assert_allclose(
            theirs.detach().numpy(), ops.convert_to_numpy(ours), atol=1e-5
        )
    moments = model.moments(
        model.prior(np.zeros((1, steps.ROWS, 1), "float32"))
    )
    theirs = peer.moments(peer.prior(torch.zeros(1, steps.ROWS, 1))[0])
    np.testing.assert_allclose(
        theirs.detach().numpy(), ops.convert_to_numpy(moments), atol=1e-5
    )
    decoded = model.decoder(mean)
    np.testing.assert_allclose(
        peer.decoder(z[0]).detach().numpy(),
        ops.convert_to_numpy(decoded),
        atol=1e-5,
    )
    # The terms of the loss, from these.
    prior_mean, prior_logvar = np.split(ops.convert_to_numpy(moments), 2, -1)
    mean, logvar = (ops.convert_to_numpy(x) for x in (mean, logvar))
    divergence = 0.5 * (
        prior_logvar
        - logvar
        + (np.exp(logvar) + (mean - prior_mean) ** 2) * np.exp(-prior_logvar)
        - 1
    )
    error = ops.convert_to_numpy(decoded) - rows.numpy()
    expected = (error**2).mean() + 1e-3 * divergence.mean()
    expected += 0.1 * ((mean - prior_mean) ** 2).mean()
    loss = float(peer(rows).detach())
    assert loss == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("model", ["KoVAE", "effective"])
@pytest.mark.parametrize("way", ["peer", "fit"])
def test_every_way_takes_its_steps(steps, model, way):
    found = steps.measure(model, way, 1)
    assert found["step"] > 0
    assert found["first"] > 0
