"""What is measured at the exits and fitted to them."""

import keras
import numpy as np
import pytest
from keras import ops
from orrery.zoo import EarlyExitLM
from orrery.zoo.exit_fitting import calibrate, fit_exit_heads
from orrery.zoo.exit_measures import measure_exits, measure_route

pytest.importorskip("scipy")
RANDOM = np.random.default_rng(0)
TOKENS = RANDOM.integers(0, 17, (90, 12)).astype("int32")
TARGETS = np.roll(TOKENS, -1, axis=1)


def small(confidence="learned", blocks=(1, 2), **kwargs):
    keras.utils.set_random_seed(1)
    model = EarlyExitLM(
        17,
        dim=16,
        blocks=blocks,
        num_heads=2,
        hidden_dim=24,
        confidence=confidence,
        embedding_stddev=0.5,
        **kwargs,
    )
    model.build()
    return model


def numpy(x):
    return ops.convert_to_numpy(x)


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_measures_are_those_of_the_exits():
    model = small(blocks=(1, 1, 2))
    out = measure_exits(model, TOKENS[:5], TARGETS[:5], batch_size=2)
    logits = [
        log_softmax(numpy(z).astype("float64"))
        for z in model.forward_train(TOKENS[:5])["exit_logits"]
    ]
    last = logits[-1]
    for exit, z in enumerate(logits):
        nll = -np.take_along_axis(z, TARGETS[:5, :, None], -1)[..., 0]
        np.testing.assert_allclose(out["loss"][..., exit], nll, atol=1e-5)
        np.testing.assert_array_equal(out["choice"][..., exit], z.argmax(-1))
        if exit == 2:
            break
        divergence = (np.exp(last) * (last - z)).sum(-1)
        np.testing.assert_allclose(
            out["divergence"][..., exit], divergence, atol=1e-5
        )
    first = numpy(model.forward_train(TOKENS[:5])["confidence"])
    np.testing.assert_allclose(out["confidence"][..., 0], first, atol=1e-6)


def test_measures_of_a_route():
    model = small("max_prob", threshold=0.25)
    out = measure_route(model, TOKENS[:6], TARGETS[:6], batch_size=3)
    routed = model.route(TOKENS[:6])
    np.testing.assert_array_equal(out["exit"], numpy(routed["exit"]))
    z = log_softmax(numpy(routed["logits"]))
    nll = -np.take_along_axis(z, TARGETS[:6, :, None], -1)[..., 0]
    np.testing.assert_allclose(out["loss"], nll, atol=1e-5)
    np.testing.assert_array_equal(out["choice"], z.argmax(-1))
    assert 0 < out["exit"].mean() < 1


def test_measures_of_rows_that_share_a_capacity():
    """Of three rows two go on, batch by batch, the number of rows unknown."""
    model = small("max_prob")
    out = measure_route(model, TOKENS[:6], TARGETS[:6], "rows", 0.5, 3)
    for rows in (slice(0, 3), slice(3, 6)):
        left = numpy(model.route(TOKENS[rows], "rows", 0.5)["exit"])
        np.testing.assert_array_equal(out["exit"][rows], left)
        assert ((left == 1).sum(axis=0) == 2).all()


def test_learned_confidence_tells_what_leaving_costs():
    model = small()
    before = [numpy(w).copy() for w in model.trainable_weights]

    def quality():
        out = measure_exits(model, TOKENS, TARGETS)
        estimate = -np.log(out["confidence"]).ravel()
        return np.corrcoef(estimate, out["divergence"].ravel())[0, 1]

    untrained = quality()
    fit_exit_heads(model, TOKENS[:60], epochs=30, learning_rate=1e-2)
    assert quality() > max(0.5, untrained + 0.3)
    # On average it is right, too: the deviance's minimum is the mean.
    out = measure_exits(model, TOKENS[:60], TARGETS[:60])
    estimate = -np.log(out["confidence"])
    assert estimate.mean() == pytest.approx(out["divergence"].mean(), rel=0.1)
    for weight, old in zip(model.trainable_weights, before, strict=True):
        np.testing.assert_array_equal(numpy(weight), old)


def test_same_seed_gives_the_same_heads():
    one, two = small(), small()
    for model in (one, two):
        fit_exit_heads(model, TOKENS[:20], epochs=2, seed=3)
    for a, b in zip(
        one.routers[0].weights, two.routers[0].weights, strict=True
    ):
        np.testing.assert_array_equal(numpy(a), numpy(b))


@pytest.mark.parametrize("kind", ["disagree", "excess_nll"])
def test_calibrated_risk_is_that_of_the_routed_network(kind, tmp_path):
    model = small("max_prob")
    options = {"kind": kind, "alphas": (0.1, 0.3), "thresholds": 8}
    if kind == "excess_nll":
        options |= {"bound": "wsr", "alphas": (0.1, 0.2)}
    low, high = options["alphas"]
    table = calibrate(model, TOKENS, TARGETS, **options)
    assert model.thresholds == [None]
    assert [row["alpha"] for row in table] == [low, high]
    assert table[0]["exit_rate"] <= table[1]["exit_rate"]
    row = model.set_risk(high)
    assert row == table[1] and row["feasible"]
    assert model.thresholds == [pytest.approx(row["threshold"])]
    routed = measure_route(model, TOKENS, TARGETS)
    full = measure_exits(model, TOKENS, TARGETS)
    risk = routed["choice"] != full["choice"][..., -1]
    if kind == "excess_nll":
        risk = routed["loss"] - full["loss"][..., -1]
        risk = risk.mean(axis=1).clip(-0.25, 0.25)
    assert row["empirical_risk"] == pytest.approx(risk.mean(), abs=1e-5)
    assert row["exit_rate"] == pytest.approx((routed["exit"] == 0).mean())
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.set_risk(low) == table[0]
    with pytest.raises(ValueError, match=rf"\[{low}, {high}\].*0.15"):
        again.set_risk(0.15)


def test_heads_that_are_fitted_again_leave_no_thresholds():
    model = small()
    calibrate(model, TOKENS, TARGETS, alphas=(0.3,), thresholds=8)
    assert model.risks is not None
    fit_exit_heads(model, TOKENS, epochs=1)
    assert model.risks is None


def test_no_promise_outlives_the_weights():
    model = small("max_prob")
    calibrate(model, TOKENS, TARGETS, alphas=(0.3,), thresholds=8)
    model.set_threshold(0.5)
    model.set_risk(0.3)
    scale = model.exit_norms[0].scale
    scale.assign(1.01 * ops.convert_to_tensor(scale))
    with pytest.raises(ValueError, match="other weights"):
        model.set_risk(0.3)
    with pytest.raises(ValueError, match="`method='quantile'` promises no"):
        calibrate(model, TOKENS, TARGETS, method="quantile")


def test_risk_is_that_of_a_policy():
    model = small("max_prob")
    options = {"alphas": (0.3,), "thresholds": 8, "policy": "both"}
    calibrate(model, TOKENS, TARGETS, **options)
    with pytest.raises(ValueError, match="`policy` must be 'both'"):
        model.set_risk(0.3)
    assert model.set_risk(0.3, "both")["alpha"] == 0.3
    (row,) = calibrate(model, TOKENS, TARGETS, method="crc", **options)
    assert row["empirical_risk"] <= 0.3


def test_bad_arguments():
    for options, name in (
        ({"policy": "defer"}, "policy"),
        ({"method": "crc"}, "policy='both'"),
        ({"method": "crc", "policy": "both", "kind": "excess_nll"}, "disagree"),
    ):
        with pytest.raises(ValueError, match=name):
            calibrate(small("max_prob"), TOKENS, TARGETS, (0.3,), **options)
    with pytest.raises(ValueError, match="confidence"):
        fit_exit_heads(small("max_prob"), TOKENS)
    with pytest.raises(ValueError, match="blocks"):
        fit_exit_heads(small(blocks=(2,)), TOKENS)
    with pytest.raises(ValueError, match="blocks"):
        calibrate(small(blocks=(1, 1, 1)), TOKENS, TARGETS)
    with pytest.raises(ValueError, match="windows"):
        calibrate(small(), TOKENS, TARGETS, alphas=(0.01,))
    with pytest.raises(ValueError, match="calibrated"):
        small().set_risk(0.05)
