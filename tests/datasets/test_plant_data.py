"""Episodes of the plant: their own weather and controls, kept by content."""

import dataclasses

import numpy as np
import pytest
from orrery.datasets import plant_data
from orrery.datasets.bsm1 import STATE_NAMES, BSM1Plant
from orrery.datasets.influent import FLOW, generated_influent, load_influent
from orrery.datasets.plant_data import Size, load_plant_data
from orrery.datasets.plant_episodes import (
    ACTIONS,
    HIGH,
    LOW,
    MEASURED,
    measured,
    rain_influent,
    random_controls,
    storm_influent,
    varied_influent,
)
from orrery.datasets.plant_file import read_runs, write_runs

pytest.importorskip("scipy")
# Nothing here asks a backend for anything.
pytestmark = pytest.mark.one_backend("torch")

TINY = Size(2, 1, 1, 1, 8)
WEATHER = plant_data._weather  # The tests of the loader replace it.


def generator(seed=0):
    return np.random.default_rng(seed)


def failing_episode(*_):
    raise ArithmeticError("LSODA stopped at t = 2")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Two hours an episode, a day of storm; the plant at its steady state."""
    monkeypatch.setitem(plant_data.SIZES, "small", TINY)
    monkeypatch.setattr(
        plant_data,
        "_weather",
        lambda *_: (
            [generated_influent(2)],
            storm_influent(0.25),
            generated_influent(0.25),
        ),
    )
    monkeypatch.setattr(
        plant_data, "seasoned_state", lambda plant, _: plant.steady_state()
    )


def same(one, other):
    return all(
        np.array_equal(getattr(a, part), getattr(b, part))
        for split in one.splits
        for a, b in zip(one.splits[split], other.splits[split], strict=True)
        for part in ("values", "controls", "disturbances")
    )


def test_splits_and_names(shared):
    data = load_plant_data(cache=shared)
    sizes = {split: len(part) for split, part in data.splits.items()}
    assert sizes == {"train": 2, "valid": 1, "test": 1, "storm": 1}
    assert data.observed == MEASURED and data.disturbances == ("Q",)
    assert data.step == 0.25
    assert len(data.splits["train"][0]) == 9
    event = data.splits["storm"][0].event
    assert event.any() and not event.all()
    full = load_plant_data("full", cache=shared)
    assert full.observed == STATE_NAMES and len(full.disturbances) == 14
    plant = BSM1Plant()
    states = full.splits["test"][0].values
    np.testing.assert_array_equal(
        measured(plant, states), data.splits["test"][0].values
    )


def test_every_episode_is_another(shared):
    data = load_plant_data("full", cache=shared)
    episodes = sum((data.splits[s] for s in ("train", "valid", "test")), [])
    for part in ("values", "controls", "disturbances"):
        firsts = [tuple(getattr(e, part)[0]) for e in episodes]
        assert len(set(firsts)) == len(firsts)


def test_the_same_from_as_many_processes(shared, tmp_path):
    one = load_plant_data(cache=shared)
    two = load_plant_data(cache=tmp_path, workers=2)
    names = [p.name for p in (*shared.iterdir(), *tmp_path.iterdir())]
    assert len(set(names)) == 1
    assert same(one, two)


def test_another_seed_is_another_file(tmp_path):
    one = load_plant_data(cache=tmp_path)
    other = load_plant_data(cache=tmp_path, seed=1)
    assert len(list(tmp_path.iterdir())) == 2
    assert not same(one, other)


def test_what_is_kept_is_read_and_checked(tmp_path, monkeypatch):
    one = load_plant_data(cache=tmp_path)
    (path,) = tmp_path.iterdir()

    def never(*_):
        raise AssertionError("simulated again")

    monkeypatch.setattr(plant_data, "_simulated", never)
    assert same(one, load_plant_data(cache=tmp_path))
    with np.load(path) as file:
        arrays = dict(file)
    arrays["states_0"][3, 5] += 1e-9
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match="is damaged"):
        load_plant_data(cache=tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="is damaged"):
        load_plant_data(cache=tmp_path)


def test_any_byte_may_be_damaged(tmp_path):
    """It is noticed, or it was of no account; nothing else is raised."""
    path = tmp_path / "runs.npz"
    rows = generator().normal(size=(3, 5))
    write_runs(path, [{"states": rows, "controls": rows, "influent": rows}])
    whole = path.read_bytes()
    noticed = 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 8
        path.write_bytes(damaged)
        try:
            (run,) = read_runs(path)
        except ValueError as error:
            assert "runs.npz is damaged" in str(error)
            noticed += 1
        else:
            np.testing.assert_array_equal(run["states"], rows)
    assert noticed > 0.5 * len(whole)


def test_nothing_is_left_of_a_failure(tmp_path, monkeypatch):
    def fails(*_):
        raise ArithmeticError("LSODA stopped")

    monkeypatch.setattr(plant_data, "storm_episode", fails)
    with pytest.raises(ArithmeticError, match="LSODA"):
        load_plant_data(cache=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_names_its_episode(tmp_path, monkeypatch, workers):
    jobs = plant_data._jobs

    def second_fails(*arguments):
        found = jobs(*arguments)
        found[1] = (failing_episode, found[1][1])
        return found

    monkeypatch.setattr(plant_data, "_jobs", second_fails)
    with pytest.raises(
        ArithmeticError, match="^Episode 1 of seed 7: LSODA stopped at t = 2"
    ):
        load_plant_data(cache=tmp_path, seed=7, workers=workers)


def test_recorded_weather(data_dir, tmp_path, monkeypatch):
    """Dry and rainy weeks are varied; the storm is in no split but its own."""
    monkeypatch.setattr(plant_data, "_weather", WEATHER)
    dry, rain, storm = (
        load_influent(name, data_dir) for name in ("dry", "rain", "storm")
    )
    given = {}

    def simulated(size, seed, weathers, storm, workers, progress):
        given.update(weathers=weathers, storm=storm)
        rows = [len(storm)] * size.storm
        rows = [size.steps + 1] * (size.train + size.valid + size.test) + rows
        return [
            {
                "states": np.ones((n, 145)),
                "controls": np.ones((n - 1, 2)),
                "influent": storm[:n],
            }
            for n in rows
        ]

    monkeypatch.setattr(plant_data, "_simulated", simulated)
    data = load_plant_data(
        "full", weather="recorded", data_dir=data_dir, cache=tmp_path
    )
    np.testing.assert_array_equal(given["storm"], storm)
    assert len(given["weathers"]) == 2
    for varied, whole in zip(given["weathers"], (dry, rain), strict=True):
        np.testing.assert_array_equal(varied, whole[:-1])
    # Rows of the storm that are not those of dry weather, and half a day more.
    event = data.splits["storm"][0].event
    differs = (np.abs(storm - dry) > 0.01 * (1 + dry)).any(axis=1)
    assert differs.mean() == pytest.approx(0.053, abs=0.005)
    for row in np.flatnonzero(differs):
        assert event[row : row + 49].all()
        for weather in given["weathers"]:
            assert not np.isclose(weather, storm[row]).all(axis=1).any()
    days = np.flatnonzero(np.diff(event)) / 96
    np.testing.assert_allclose(days, [8.81, 9.42, 10.92, 12.03], atol=0.02)
    assert data.metadata["weather"] == plant_data.weather_digest(
        "recorded", data_dir
    )


def test_progress(tmp_path):
    seen = []
    load_plant_data(cache=tmp_path, progress=lambda *n: seen.append(n))
    assert seen == [(k, 5) for k in range(1, 6)]


@pytest.mark.parametrize("kind", ACTIONS)
def test_controls(kind):
    held = random_controls(1344, kind, generator())
    assert held.shape == (1344, 2)
    changes = np.flatnonzero(np.any(np.diff(held, axis=0) != 0, axis=1)) + 1
    dwell = np.diff([0, *changes])
    if kind == "controllers":
        assert (held >= [0.5, 0.2]).all() and (held <= [3.5, 3.0]).all()
        assert dwell.min() >= 16 and dwell.max() <= 96
        return
    assert (held >= LOW).all() and (held <= HIGH).all()
    assert (np.ptp(held, axis=0) > 0.2 * HIGH).all()
    if kind == "steps":
        assert dwell.min() >= 4 and dwell.max() <= 32
    if kind == "walk":
        assert (dwell % 4 == 0).all()


def test_steps_of_one_length():
    held = random_controls(999, "steps", generator(), dwell=30)
    changes = np.flatnonzero(np.any(np.diff(held, axis=0) != 0, axis=1)) + 1
    np.testing.assert_array_equal(changes, np.arange(30, 999, 30))
    assert (np.ptp(held, axis=0) > 0.8 * HIGH).all()
    with pytest.raises(ValueError, match="`dwell` is for steps"):
        random_controls(8, "walk", generator(), dwell=30)
    with pytest.raises(ValueError, match="`dwell` must be"):
        random_controls(8, "steps", generator(), dwell=0)


def test_the_original_s_episodes_hold_their_controls(tmp_path, monkeypatch):
    size = dataclasses.replace(plant_data.SIZES["original"], steps=64)
    size = dataclasses.replace(size, train=3, valid=1, test=1)
    monkeypatch.setitem(plant_data.SIZES, "original", size)
    data = load_plant_data(size="original", cache=tmp_path)
    for episodes in data.splits.values():
        for episode in episodes:
            changes = np.diff(episode.controls, axis=0).any(axis=1)
            rows = np.flatnonzero(changes) + 1
            np.testing.assert_array_equal(
                rows, np.arange(30, len(episode.controls), 30)
            )


def test_binary_controls_have_two_levels():
    held = random_controls(1344, "binary", generator())
    for column, high in zip(held.T, HIGH, strict=True):
        levels = np.sort(column)
        gaps = np.diff(levels) > 0.06 * high
        assert gaps.sum() <= 1


def test_a_kind_that_is_not_known():
    with pytest.raises(ValueError, match="`kind` must be one of"):
        random_controls(8, "jumps", generator())


def test_weather_varies_around_the_recorded_one():
    base = generated_influent()[:-1]
    flows = [
        varied_influent(base, 1344, generator(k), dilutions=False)
        for k in range(40)
    ]
    ratio = np.mean([w[:, FLOW].mean() for w in flows]) / base[:, FLOW].mean()
    assert ratio == pytest.approx(1, abs=0.1)
    factors = np.log([w[:, 9].mean() for w in flows])
    assert 0.1 < factors.std() < 0.22
    assert all((w >= 0).all() for w in flows)


def test_rain_thins_out_what_it_adds_to():
    base = generated_influent()[:-1]
    dry = varied_influent(base, 1344, generator(3), dilutions=False)
    wet = varied_influent(base, 1344, generator(3))
    more = wet[:, FLOW] / dry[:, FLOW]
    assert more.max() > 1.1 and more.max() <= 2.5 + 1e-9
    np.testing.assert_allclose(wet[:, 9] * more, dry[:, 9], rtol=1e-9)


def test_a_storm_that_needs_no_file():
    storm, dry = storm_influent(), generated_influent()
    differs = storm[:, FLOW] != dry[:, FLOW]
    assert 0.03 < differs.mean() < 0.06
    assert storm[:, FLOW].max() > 45_000
    loads = (storm[:, 2] * storm[:, FLOW]) / (dry[:, 2] * dry[:, FLOW])
    assert loads.max() == pytest.approx(5)


def test_rain_that_needs_no_file():
    rain, dry = rain_influent(), generated_influent()
    rise = rain[:, FLOW] / dry[:, FLOW]
    assert (rise.max(), rise.min()) == pytest.approx((2.2, 1))
    assert 0.18 < (rise > 1).mean() < 0.21
    np.testing.assert_allclose(rain[:, 9] * rise, dry[:, 9])


@pytest.mark.parametrize(
    "given, message",
    [
        ({"task": "all"}, "`task` must be one of"),
        ({"size": "huge"}, "`size` must be one of"),
        ({"weather": "storm"}, "`weather` must be one of"),
    ],
)
def test_bad_input_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        load_plant_data(**given)


def test_sizes_are_those_of_the_protocol():
    full = (32, 6, 8, 2, 1344, None)
    assert dataclasses.astuple(plant_data.SIZES["full"]) == full
    original = plant_data.SIZES["original"]
    assert (original.train, original.test) == (11, 3)
    assert (original.steps, original.dwell) == (999, 30)
