"""Windows: which states, in which order, and which are refused."""

import keras
import numpy as np
import pytest
from orrery.datasets import TrajectoryWindows

Q = np.arange(24.0).reshape(2, 12, 1)
DATA = {"q": Q, "p": -Q, "u": 100 + Q}


def test_a_window_is_a_state_and_the_steps_behind_it():
    windows = TrajectoryWindows(
        DATA, num_steps=3, stride=2, batch_size=4, shuffle=False
    )
    assert len(windows) == 3  # 5 beginnings in each trajectory
    inputs, states, weight = windows[0]
    np.testing.assert_array_equal(inputs["q"], [[0], [2], [4], [6]])
    np.testing.assert_array_equal(inputs["p"], -inputs["q"])
    np.testing.assert_array_equal(inputs["controls"][1, :, 0], [102, 103, 104])
    np.testing.assert_array_equal(states[1, :, 0], [2, 3, 4, 5])
    np.testing.assert_array_equal(states[..., 1], -states[..., 0])
    assert all(array.dtype == "float32" for array in (*inputs.values(), states))
    assert weight.tolist() == [[1] * 4] * 4
    inputs, states, weight = windows[2]
    assert inputs["q"][:, 0].tolist() == [18, 20, 0, 2]
    assert weight[:, 0].tolist() == [1, 1, 0, 0]
    assert np.ptp(weight, axis=1).max() == 0


def test_every_window_once_in_an_order_of_seed_and_epoch():
    def firsts(epoch, seed=1):
        windows = TrajectoryWindows(
            DATA, num_steps=4, batch_size=5, seed=seed, epoch=epoch
        )
        batches = [windows[i] for i in range(len(windows))]
        return np.concatenate([b[0]["q"][b[2][:, 0] > 0, 0] for b in batches])

    expected = [k for row in range(2) for k in range(12 * row, 12 * row + 8)]
    assert sorted(firsts(0)) == sorted(firsts(1)) == expected
    assert not np.array_equal(firsts(0), firsts(1))
    assert not np.array_equal(firsts(0), firsts(0, seed=2))
    np.testing.assert_array_equal(firsts(1), firsts(1))


def test_shorter_trajectories_are_not_filled():
    data = {**DATA, "length": np.array([12, 5])}
    data["q"] = np.where(
        np.arange(12)[:, None] < data["length"][:, None, None], Q, np.nan
    )
    windows = TrajectoryWindows(data, num_steps=4, shuffle=False, batch_size=9)
    assert len(windows) == 1
    assert np.isfinite(windows[0][1]).all()
    assert windows[0][0]["q"][:, 0].tolist() == [*range(8), 12]


def test_feeds_fit():
    windows = TrajectoryWindows(DATA, num_steps=2, batch_size=7)
    inputs = {name: keras.Input((1,), name=name) for name in "qp"}
    inputs["controls"] = keras.Input((2, 1), name="controls")
    state = keras.layers.Concatenate()([*inputs.values()][:2])
    states = keras.layers.RepeatVector(3)(keras.layers.Dense(2)(state))
    model = keras.Model(inputs, states)
    model.compile("sgd", "mse")
    history = model.fit(windows, epochs=2, shuffle=False, verbose=0).history
    assert len(history["loss"]) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 0}, "`num_steps`.*num_steps=0"),
        ({"num_steps": 12}, "below 12.*num_steps=12"),
        ({"stride": 0}, "`stride`.*stride=0"),
        ({"batch_size": 0}, "`batch_size`"),
        ({"seed": -1}, "`seed`"),
    ],
)
def test_bad_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        TrajectoryWindows(DATA, **changes)


def test_bad_trajectories():
    broken = Q.copy()
    broken[1, 3] = np.nan
    with pytest.raises(ValueError, match="p of trajectory 1 is .nan. at point"):
        TrajectoryWindows({"q": Q, "p": broken})
    with pytest.raises(ValueError, match=r"\(2, 12, 1\) and \(2, 12\)"):
        TrajectoryWindows({"q": Q, "p": Q[..., 0]})
    with pytest.raises(ValueError, match="u of the shape"):
        TrajectoryWindows({"q": Q, "p": Q, "u": Q[:, :5]})
    with pytest.raises(ValueError, match="q and p.*'q'"):
        TrajectoryWindows({"q": Q})
    with pytest.raises(ValueError, match="length from 1 to 12"):
        TrajectoryWindows({"q": Q, "p": Q, "length": [12, 13]})
    t = np.tile(np.arange(12.0), (2, 1))
    assert len(TrajectoryWindows({"q": Q, "p": Q, "t": 0.1 * t}))
    padded = {"q": Q, "p": Q, "t": np.where(t < 5, t, 0), "length": [5, 5]}
    assert len(TrajectoryWindows(padded, 2, step_size=1.0))
    with pytest.raises(ValueError, match="`step_size`.*data, 1.*=0.1"):
        TrajectoryWindows(padded, 2, step_size=0.1)
    t[1, 5] += 0.5
    with pytest.raises(ValueError, match="equal steps.*trajectory 1"):
        TrajectoryWindows({"q": Q, "p": Q, "t": t})
