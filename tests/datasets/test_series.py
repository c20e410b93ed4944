"""Windows of episodes, and scales that know the training text alone."""

import numpy as np
import pytest
from orrery.datasets.series import Episode, SeriesData


def episode(rows, first=0.0, event=None):
    """Values that tell their own row; what acts between is a half more."""
    time = first + np.arange(float(rows))[:, None]
    values = np.concatenate([time, -time, np.full_like(time, 7.0)], axis=1)
    return Episode(values, time[:-1] + 0.5, time[:-1] + 0.25, event)


def series(**splits):
    splits.setdefault("train", [episode(10), episode(6, first=100)])
    return SeriesData(
        "clock", ("t", "-t", "still"), ("u",), ("d",), 0.25, splits
    )


def test_windows_stay_within_their_episode():
    windows = series().windows("train", history=3, horizon=2)
    assert windows["past"].shape == (6 + 2, 3, 3)
    together = np.concatenate([windows["past"], windows["future"]], axis=1)
    np.testing.assert_array_equal(np.diff(together[..., 0], axis=1), 1.0)
    assert windows["episode"].tolist() == [0] * 6 + [1] * 2


def test_what_acts_stands_between_the_rows():
    windows = series().windows("train", history=3, horizon=2)
    rows = np.concatenate([windows["past"], windows["future"]], axis=1)[..., :1]
    np.testing.assert_array_equal(windows["controls"], rows[:, :-1] + 0.5)
    np.testing.assert_array_equal(windows["disturbances"], rows[:, :-1] + 0.25)


def test_a_stride():
    starts = series().starts("train", 3, 2, stride=4)
    assert starts.tolist() == [[0, 0], [0, 4], [1, 0]]


def test_scales_are_those_of_the_training_episodes():
    data = series(test=[episode(10, first=1e6)])
    mean, deviation = data.scales()["observed"]
    rows = np.concatenate([np.arange(10.0), 100 + np.arange(6.0)])
    np.testing.assert_allclose(mean, [rows.mean(), -rows.mean(), 7.0])
    np.testing.assert_allclose(deviation, [rows.std(), rows.std(), 1.0])
    assert data.varying().tolist() == [True, True, False]
    between = np.concatenate([np.arange(9.0), 100 + np.arange(5.0)]) + 0.5
    assert data.scales()["controls"][0] == pytest.approx(between.mean())


def test_events_of_the_future():
    event = np.zeros(10, bool)
    event[6] = True
    data = series(storm=[episode(10, event=event)])
    windows = data.windows("storm", history=3, horizon=2)
    # Futures are rows 3-4, 4-5, 5-6, 6-7, 7-8, 8-9.
    assert windows["event"].tolist() == [False, False, True, True, False, False]
    assert not data.windows("train", 3, 2)["event"].any()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda d: d.windows("train", 8, 3), "at most 10.*Received: 8"),
        (lambda d: d.windows("train", 0, 3), "`history`"),
        (lambda d: d.windows("train", 3, 0), "`horizon`"),
        (lambda d: d.windows("storm", 3, 3), "`split` must be one of"),
        (lambda d: d.starts("train", 3, 3, 0), "`stride`"),
    ],
)
def test_windows_that_are_not_there(call, message):
    with pytest.raises(ValueError, match=message):
        call(series())


def test_bad_episodes_are_named():
    good = episode(5)
    nan = good.values.copy()
    nan[3, 1] = np.nan
    for wrong, message in (
        (Episode(nan, good.controls, good.disturbances), "row 3, column 1"),
        (
            Episode(good.values, good.controls[1:], good.disturbances),
            "controls",
        ),
        (
            Episode(good.values[:, :2], good.controls, good.disturbances),
            "values",
        ),
        (episode(5, event=np.zeros(4, bool)), "event"),
    ):
        with pytest.raises(
            ValueError, match=f"clock, test episode 1.*{message}"
        ):
            series(test=[good, wrong])
    with pytest.raises(ValueError, match="episodes to train on"):
        series(train=[])
