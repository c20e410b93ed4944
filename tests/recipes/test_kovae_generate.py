"""The recipe of Koopman autoencoders that make series, and their publisher."""

import argparse
import csv
import importlib
import json
import sys
from pathlib import Path

import keras
import numpy as np
import orrery
import pytest

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
BACKEND = keras.backend.backend()
ROWS, LENGTH = 60, 6
FLAGS = ("--task", "generate", "--time", "hour", "--length", LENGTH)
FLAGS += ("--drop", 0.3, "--prior-history", "posterior", "--smoke")


@pytest.fixture(scope="module", autouse=True)
def recipes():
    sys.path.insert(0, str(RECIPES))
    yield
    sys.path.remove(str(RECIPES))


@pytest.fixture(scope="module")
def main(recipes):
    """The recipe in this process; flags of any type."""
    call = importlib.import_module("kovae").main
    return lambda *flags: call(["--backend", BACKEND, *map(str, flags)])


@pytest.fixture(scope="module")
def experiment(recipes):
    return importlib.import_module("_generation_experiment")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "waves.csv"
    hours = np.arange(ROWS)
    waves = np.stack([5 + 2 * np.sin(0.3 * hours), np.cos(0.3 * hours)], axis=1)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["hour", "level", "flow"])
        writer.writerows(np.column_stack([hours, waves]).tolist())
    return path


@pytest.fixture(scope="module")
def run(main, table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    main("--dataset", table, *FLAGS, "--out", folder)
    return folder


def refused(main, capsys, *flags):
    """What the recipe says as it refuses its flags."""
    with pytest.raises(SystemExit) as stop:
        main(*flags)
    assert stop.value.code not in (0, None)
    return f"{stop.value}\n{capsys.readouterr().err}"


@pytest.mark.one_backend("torch")
@pytest.mark.timeout(600)
def test_a_table_is_imitated(run, table):
    config = json.loads((run / "config.json").read_text())
    settings = config["settings"]
    assert settings["data"]["columns"] == ["level", "flow"]
    np.testing.assert_allclose(settings["data"]["low"], [3, -1], atol=0.02)
    model = orrery.load(run / "model.keras")
    assert model.irregular and model.history_of == "posterior"
    assert (model.kl_weight, model.prediction_weight) == (0.1, 0.0005)
    assert model.generate(3).shape == (3, LENGTH, 2)
    metrics = json.loads((run / "metrics.json").read_text())
    names = {"discriminative", "discriminative, strict", "predictive"}
    assert set(metrics["published"]) == names
    assert set(metrics["scores"]) == {
        f"{name}/{kind}" for name in names for kind in ("made", "real")
    }
    report = (run / "report.md").read_text()
    assert "| score | made | real | published |" in report
    assert "0.3 of all rows missing" in report


@pytest.mark.one_backend("torch")
@pytest.mark.parametrize(
    ("other", "named"),
    [
        (("--prior-history", "prior"), "model.history"),
        (("--drop", 0.2), "drop"),
        (("--length", 7), "data.length"),
        (("--seed", 1), "seed"),
        (("--learning-rate", 0.1), "learning_rate"),
    ],
)
def test_another_run_is_not_continued(main, table, run, other, named):
    flags = ("--dataset", table, *FLAGS, "--out", run, "--resume")
    with pytest.raises(SystemExit, match=named):
        main(*flags, *other)


@pytest.mark.one_backend("torch")
def test_another_table_is_not_continued(main, table, run, tmp_path):
    changed = tmp_path / table.name
    changed.write_text(table.read_text() + "60,5,1\n")
    with pytest.raises(SystemExit, match="data.sha256"):
        main("--dataset", changed, *FLAGS, "--out", run, "--resume")


@pytest.mark.one_backend("torch")
def test_scores_of_another_run_are_not_continued(experiment, run):
    series = np.zeros((10, LENGTH, 2), "float32")
    with pytest.raises(ValueError, match="another configuration"):
        experiment.judge(series, series, run, {"smoke": True, "drop": 0.2})


def test_windows_of_a_table(table):
    data = importlib.import_module("_generation_data")
    windows, told = data.table_windows(table, LENGTH, time="hour")
    assert windows.shape == (ROWS - LENGTH + 1, LENGTH, 2)
    assert windows.min() == 0 and windows.max() == 1
    low, high = (np.array(told[name]) for name in ("low", "high"))
    levels, flows = np.moveaxis(low + windows * (high - low), -1, 0)
    np.testing.assert_allclose(
        ((levels - 5) / 2) ** 2 + flows**2, 1.0, atol=1e-5
    )
    assert len(np.unique(windows[:, 0, 1])) > 50
    with pytest.raises(ValueError, match="too short"):
        data.table_windows(table, ROWS - 5, time="hour")


def test_another_file_of_stocks_is_other_data(tmp_path):
    data = importlib.import_module("_generation_data")
    (tmp_path / "stocks").mkdir()
    told = []
    for last in (9.0, 8.0):
        rows = np.column_stack([np.arange(30.0), np.arange(30.0) ** 2])
        rows[-1, 1] = last
        lines = [f"{one},{two}" for one, two in rows]
        path = tmp_path / "stocks" / "stock_data.csv"
        path.write_text("\n".join(["open,close", *lines]) + "\n")
        flags = {"dataset": "stocks", "length": 4, "seed": 0}
        flags |= {"data_dir": tmp_path, "smoke": False}
        told.append(data.load(argparse.Namespace(**flags))[1])
    assert told[0] != told[1]


def test_made_and_real_are_judged_alike(experiment):
    real, made = (np.arange(21.0) + start for start in (0, 100))
    kinds = experiment.pairs(real, made)
    assert [len(x) for x in kinds["made"]] == [len(x) for x in kinds["real"]]
    np.testing.assert_array_equal(kinds["made"][0], kinds["real"][0])
    assert not set(kinds["real"][0]) & set(kinds["real"][1])
    assert [len(x) for x in kinds["published"]] == [21, 21]


def test_one_feature_has_no_predictive_score(experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(
        experiment, "discriminative_score", lambda *args, **kwargs: 0.1
    )
    series = np.zeros((10, LENGTH, 1), "float32")
    found = experiment.judge(series, series, tmp_path, {"smoke": True})
    assert set(found["published"]) == {
        "discriminative",
        "discriminative, strict",
    }
    assert found["scores"]["discriminative/real"]["mean"] == 0.1


def test_a_model_is_kept_every_ten_epochs(experiment, tmp_path):
    series = orrery.datasets.sines(8, length=3, features=1)
    model = orrery.zoo.KoVAEGenerator(
        1, length=3, latent_dim=1, hidden_dim=1, num_layers=1, seed=0
    )
    config = {"batch_size": 8, "seed": 0, "drop": 0.0, "learning_rate": 1e-3}
    model.build()
    experiment.train(model, series, tmp_path, {**config, "epochs": 11})
    kept = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert kept == ["epoch_0010.keras"]


@pytest.mark.one_backend("jax")
@pytest.mark.timeout(900)
def test_a_run_becomes_a_saved_model(main, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    main("--dataset", "sines", "--smoke", "--out", folder)
    publisher = importlib.import_module("publish_koopman_generator")
    monkeypatch.setattr(publisher, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["", str(folder), "kovae_sines"])
    publisher.main()
    saved = tmp_path / "saved_models" / "kovae_sines"
    assert {path.name for path in saved.iterdir()} == {
        "model.keras",
        "golden.npz",
        "metadata.json",
        "README.md",
    }
    told = json.loads((saved / "metadata.json").read_text())
    assert max(told["verified"].values()) < 1e-4
    assert len(told["metrics"]) == 9
    assert "--prior-history prior" in told["training"]["command"]
    assert str(tmp_path) not in json.dumps(told)
    assert orrery.load(saved).generate(2).shape == (2, 24, 5)
    with open(tmp_path / "results" / "kovae_sines_scores.csv") as file:
        assert len(list(csv.DictReader(file))) == 9


@pytest.mark.one_backend("torch")
def test_a_table_is_not_published(run, monkeypatch):
    publisher = importlib.import_module("publish_koopman_generator")
    monkeypatch.setattr(sys, "argv", ["", str(run), "kovae_waves"])
    with pytest.raises(SystemExit, match="waves"):
        publisher.main()


@pytest.mark.one_backend("torch")
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--drop", 1.0), "--drop must be"),
        (("--length", 1), "--length must be"),
        (("--history", 5), "--history has no effect"),
        (("--controls", "flow"), "--controls has no effect"),
        (("--preset", "old"), "--preset has no effect"),
        (("--task", "forecast", "--drop", 0.1), "--drop has no effect"),
        (("--dataset", "sines", "--task", "forecast"), "does not fit"),
        (("--dataset", "bsm1"), "does not fit"),
        (("--length", ROWS), "too short"),
    ],
)
def test_bad_flags(main, table, capsys, flags, message):
    given = ("--dataset", table, "--task", "generate", "--time", "hour")
    if flags[0] == "--dataset":
        given = ("--task", "generate")
    assert message in refused(main, capsys, *given, *flags)
