"""The recipe of learned mechanics, as a user runs it."""

import csv
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import orrery
import pytest
from orrery.datasets import mass_spring, write_trajectories

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "hamiltonian_mechanics.py"
BACKEND = keras.backend.backend()
ARMS = ("hamiltonian", "neural_ode")

pytestmark = pytest.mark.one_backend("tensorflow")


@pytest.fixture(scope="module")
def main():
    """The recipe in this process; flags of any type."""
    sys.path.insert(0, str(RECIPE.parent))
    call = importlib.import_module("hamiltonian_mechanics").main
    yield lambda *flags: call(["--backend", BACKEND, *map(str, flags)])
    sys.path.remove(str(RECIPE.parent))


@pytest.fixture
def stopped(main, capsys):
    """What the recipe says as it refuses its flags."""

    def call(*flags):
        with pytest.raises(SystemExit) as stop:
            main(*flags)
        assert stop.value.code not in (0, None)
        return f"{stop.value}\n{capsys.readouterr().err}"

    return call


@pytest.fixture(scope="module")
def run(main, tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    main("--smoke", "--arms", *ARMS, "--out", folder)
    return folder


def read(folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    return metrics["arms"], (folder / "report.md").read_text()


def history(folder):
    with open(folder / "hamiltonian" / "history.csv", newline="") as file:
        return [{**row, "seconds": ""} for row in csv.DictReader(file)]


def test_leaves_everything_it_promises(run):
    names = ["config.json", "metrics.json", "report.md", "model.keras"]
    names += [f"{arm}/history.csv" for arm in ARMS]
    for name in names:
        assert (run / name).stat().st_size > 0, name
    arms, report = read(run)
    assert tuple(arms) == ARMS
    sizes = [result["parameters"] for result in arms.values()]
    assert min(sizes) > 0.85 * max(sizes)
    for result in arms.values():
        assert list(result["position_error"]) == ["10", "100"]
        for name in ("valid_rmse", "energy_error", "steady", "growth"):
            assert np.isfinite(result[name]), name
    assert report.count("| neural ODE") == 2
    model = orrery.load(run / "model.keras")
    assert model.integrator == "yoshida4"


def test_draws_pictures(run):
    pytest.importorskip("matplotlib")
    for name in ("energy", "errors", "phase"):
        picture = (run / f"{name}.png").read_bytes()
        assert picture.startswith(b"\x89PNG"), name
        assert f"{name}.png" in (run / "report.md").read_text()


@pytest.mark.timeout(600)
def test_same_seed_gives_the_same_history_even_if_killed(run, tmp_path, main):
    flags = ("--smoke", "--arms", "hamiltonian", "--out", tmp_path)
    command = [sys.executable, RECIPE, "--backend", BACKEND, *flags]
    process = subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    state = tmp_path / "hamiltonian" / "state.npz"
    deadline = time.monotonic() + 200
    try:
        while not state.exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    main(*flags, "--resume")
    assert history(tmp_path) == history(run)
    ours, theirs = (
        read(folder)[0]["hamiltonian"] for folder in (tmp_path, run)
    )
    assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}


def test_a_users_file(tmp_path, main):
    """Control and friction, in units of the user's; no true energy."""
    force = np.random.default_rng(0).uniform(-1, 1, size=(5, 20, 1))
    data = mass_spring(5, 20, friction=0.2, control=force)
    data = {**data, "q": 1e-3 * data["q"]}
    path = tmp_path / "spring.csv"
    write_trajectories(path, data)
    flags = "--smoke", "--system", path, "--learn-friction"
    main(*flags, "--arms", "hamiltonian", "--out", tmp_path / "run")
    arms, report = read(tmp_path / "run")
    assert "energy_error" not in arms["hamiltonian"]
    assert "measured data is not known" in report
    model = orrery.load(tmp_path / "run" / "model.keras")
    assert model.friction and model.num_controls == 1
    assert model.units["q"] < 1e-3


def test_does_not_overwrite_a_run(run, stopped):
    assert "--resume" in stopped("--smoke", "--out", run)


def test_refuses_the_state_of_another_run(run, stopped):
    flags = "--smoke", "--out", run, "--resume", "--seed", 5
    assert "seed (0 in the file, 5 now)" in stopped(*flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--system", "no_such_system"], "kepler, henon_heiles"),
        (["--system", "no_such_file.csv"], "no_such_file.csv"),
        (["--system", "a.csv", "--noise", "0.1"], "--noise has no effect"),
        (["--system", "a.csv", "--step-size", "1"], "--step-size has no"),
        (["--preset", "no_such_preset"], "hamiltonian_kepler"),
        (["--preset", "hamiltonian_kepler"], "number of positions"),
        (["--epochs", "0"], "--epochs"),
        (["--step-size", "0"], "--step-size"),
        (["--learning-rate", "nan"], "--learning-rate"),
        (["--friction", "-1"], "--friction"),
        (["--arms", "lstm"], "--arms"),
        (["--integrator", "rk4"], "--integrator"),
    ],
)
def test_bad_input_is_named(flags, message, tmp_path, stopped):
    assert message in stopped("--smoke", "--out", tmp_path, *flags)


def test_names_what_is_not_a_number(tmp_path, stopped):
    path = tmp_path / "data.csv"
    path.write_text("trajectory,t,q0,p0\na,0,1,0\na,0.1,nan,0\n")
    said = stopped("--system", path, "--out", tmp_path / "run")
    assert "row 3, column 'q0'" in said
