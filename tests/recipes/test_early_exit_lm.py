"""The recipe of the early-exit language model, as a user runs it."""

import argparse
import csv
import importlib
import importlib.util
import json
import math
from pathlib import Path

import keras
import numpy as np
import orrery
import pytest
from orrery.datasets.stdlib import read_stdlib
from orrery.zoo.legacy.ashem_protocol import LegacyExperiment

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "early_exit_lm.py"
BACKEND = keras.backend.backend()
ARMS = ("exits", "full", "shallow")

pytestmark = pytest.mark.one_backend("torch")


def recipe(name="early_exit_lm"):
    return importlib.import_module(name)


@pytest.fixture(autouse=True)
def path(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPE.parent))


@pytest.fixture
def stopped(capsys):
    """What the recipe says as it refuses its flags, in this process."""

    def call(*flags):
        with pytest.raises(SystemExit) as stop:
            recipe().main(["--backend", BACKEND, *map(str, flags)])
        assert stop.value.code not in (0, None)
        return f"{stop.value}\n{capsys.readouterr().err}"

    return call


def run(*flags):
    recipe().main(["--smoke", "--backend", BACKEND, *map(str, flags)])


def history(folder, arm):
    with open(folder / arm / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        {key: value for key, value in row.items() if key != "seconds"}
        for row in rows
    ]


@pytest.mark.timeout(600)
def test_leaves_everything_and_resumes(tmp_path, monkeypatch, stopped):
    """Stopped within an epoch: the numbers of a run in one go."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    twice = "--saves-per-epoch", 2
    run("--arms", *ARMS, "--out", whole, *twice)
    names = ["config.json", "metrics.json", "report.md", "model.keras"]
    names += ["vocabulary.txt", *(f"{arm}/history.csv" for arm in ARMS)]
    for name in names:
        assert (whole / name).stat().st_size > 0, name
    metrics = json.loads((whole / "metrics.json").read_text())
    assert tuple(metrics["arms"]) == ARMS
    for arm in ARMS:
        assert np.isfinite(metrics["arms"][arm]["test"]["perplexity"])
    check_the_measures(metrics)
    text = (whole / "report.md").read_text()
    if importlib.util.find_spec("matplotlib"):
        for name in ("pareto", "confidence", "paragraph"):
            picture = (whole / f"{name}.png").read_bytes()
            assert picture.startswith(b"\x89PNG"), name
            assert f"{name}.png" in text
    model = orrery.load(whole / "model.keras")
    chosen = metrics["thresholds"]["chosen"]
    if chosen is not None:
        chosen = pytest.approx(chosen)
    assert model.thresholds == [chosen]

    arms = recipe("_early_exit_arms")

    class Stop(arms.NonFiniteGuard):
        def on_epoch_begin(self, epoch, logs=None):
            super().on_epoch_begin(epoch, logs)
            if epoch == 1:
                raise OSError("killed")

    monkeypatch.setattr(arms, "NonFiniteGuard", Stop)
    flags = "--arms", "exits", "--out", parts, *twice
    assert "killed" in stopped("--smoke", *flags)
    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(RECIPE.parent))
    assert (parts / "exits" / "state.npz").exists()
    assert not (parts / "exits" / "history.csv").exists()
    experiment = recipe("_early_exit_experiment")
    monkeypatch.setattr(experiment, "measure", lambda *_: ())
    monkeypatch.setattr(experiment, "write_report", lambda folder: None)
    run(*flags, "--resume")
    assert history(whole, "exits") == history(parts, "exits")
    assert "--resume" in stopped("--smoke", "--out", whole)
    changed = stopped(
        "--smoke", "--out", whole, *twice, "--resume", "--seed", 5
    )
    assert "seed (0 in the file, 5 now)" in changed


def check_the_measures(metrics):
    rows = metrics["curve"]["rows"]
    for policy in ("propagate", "defer"):
        rates = [row[policy]["exit_rate"] for row in rows]
        assert rates == sorted(rates) and rates[0] < 0.3 < 0.7 < rates[-1]
        for row in rows:
            assert np.isfinite(list(row[policy].values())).all()
    cheap = [row["propagate"]["macs_with_head"] for row in rows]
    assert cheap == sorted(cheap, reverse=True)
    speeds = metrics["speeds"]
    assert {row["batch"] for row in speeds} == {1, 4}
    for row in speeds:
        assert row["seconds_per_step"] > 0
        if row["what"] == "exits, nobody leaves":
            assert row["nats_more"] == pytest.approx(0, abs=1e-5)
            assert row["exit_rate"] == 0
    left = [row["exit_rate"] for row in speeds if row["what"] == "exits"]
    assert len(left) == 2 * len(rows[1::2]) and max(left) > 0
    drafts = metrics["drafts"]
    assert drafts["identical"] == drafts["prompts"] > 0
    exits = metrics["exits"]
    assert exits["estimated"] == sorted(exits["estimated"], reverse=True)
    assert sum(exits["histogram"]) == 256 * exits["windows"]


def test_cost_of_the_layers_below_the_exit_alone():
    """Of ten layers of 192: what a network of three has in theirs."""
    arms = recipe("_early_exit_arms")
    sizes = {"dim": 192, "num_key_value_heads": 1}
    model = orrery.zoo.EarlyExitLM(blocks=(3,), **sizes)
    layer = 192 * (2 * 192 + 2 * 32 + 3 * 768) + 2 * 192 * 257 / 2
    head = 256 * 192
    expected = (3 * layer + head) / (10 * layer + head)
    assert arms.cost_over_full_depth(model, 10) == pytest.approx(expected)


def test_parts_of_a_text_are_disjoint():
    """Nothing that an arm or a head is fitted to calibrates or is scored."""
    experiment = recipe("_early_exit_experiment")
    data = experiment.load_text("stdlib", "byte", sequence_length=256)
    parts = experiment.divided(data).splits
    whole = np.concatenate(
        [parts[name] for name in ("train", "heads", "calibration")]
    )
    np.testing.assert_array_equal(whole, data.splits["train"])
    for name in ("valid", "test"):
        np.testing.assert_array_equal(parts[name], data.splits[name])

    def pages(name):
        windows = experiment.divided(data).blocks(name)[0]
        return {window.tobytes() for window in windows}

    names = list(parts)
    for place, one in enumerate(names):
        assert pages(one)
        for other in names[place + 1 :]:
            assert not pages(one) & pages(other), (one, other)


def test_arms_start_from_the_values_they_share():
    arms = recipe("_early_exit_arms")
    architecture = {
        "vocabulary_size": 256,
        "dim": 16,
        "blocks": (1, 2),
        "num_heads": 2,
    }
    models = {arm: arms.build(arm, 3, architecture) for arm in ARMS}
    assert [len(models[arm].decoder_layers) for arm in ARMS] == [3, 3, 1]
    for arm in ("full", "shallow"):
        assert not models[arm].routers
        for mine, theirs in zip(
            [models[arm].token_embedding, *models[arm].decoder_layers],
            [models["exits"].token_embedding, *models["exits"].decoder_layers],
            strict=False,
        ):
            for one, two in zip(mine.weights, theirs.weights, strict=True):
                np.testing.assert_array_equal(
                    keras.ops.convert_to_numpy(one),
                    keras.ops.convert_to_numpy(two),
                )


def test_the_threshold_is_the_lowest_that_is_allowed(monkeypatch):
    """Chosen on calibration text, by what leaving costs there."""
    measures = recipe("_early_exit_measures")
    confidence = np.linspace(0, 1, 101)[None, :, None]
    monkeypatch.setattr(
        measures,
        "measure_exits",
        lambda *_: {"confidence": confidence, "loss": np.ones((1, 101, 2))},
    )

    class Model:
        def set_threshold(self, level):
            self.level = level

    def route(model, *_, batch_size):
        # At 40 % it is just too much, above that even more.
        more = 0.011 if model.level < 0.65 else 0.009
        return {"loss": np.full((1, 101), 1 + more)}

    monkeypatch.setattr(measures, "measure_route", route)
    model = Model()
    rows, chosen = measures.thresholds(model, (None, None), 8)
    assert chosen == pytest.approx(0.7) and model.level is None
    assert [row["share"] for row in rows] == list(measures.SHARES)
    assert math.isclose(rows[2]["nats_more"], 0.009)


def test_leak_or_context_of_raw_files(monkeypatch, tmp_path):
    """A folder as whoever downloaded them has it, with its text to test on."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    leak = recipe("leak_or_context")
    read = recipe("_ashem_experiment").read
    flags = argparse.Namespace(dataset=str(tmp_path))
    with pytest.raises(SystemExit, match="wiki.valid.raw"):
        read(flags)
    for split in ("train", "valid"):
        text = " ".join(f"w{k % 50}" for k in range(20_000))
        (tmp_path / f"wiki.{split}.raw").write_text(text, "utf-8")
    small = LegacyExperiment(samples=400, max_epochs=1)
    with pytest.raises(SystemExit, match="wiki.test.raw"):
        leak.texts(read(flags)[0], small)
    (tmp_path / "wiki.test.raw").write_text(text, "utf-8")
    parts, words = leak.texts(read(flags)[0], small)
    assert words == 52 and set(parts) == {"train", "unseen", "valid", "test"}
    assert all(len(part) for part in parts.values())


def test_the_original_run(tmp_path, stopped, capsys):
    """On the embedded text, and on files as those that it was made for."""
    run("--protocol", "legacy", "--out", tmp_path / "one")
    said = capsys.readouterr().out
    assert "✓ Computed confidence threshold" in said
    metrics = json.loads((tmp_path / "one" / "metrics.json").read_text())
    assert metrics["hard_share"] == pytest.approx(0.5, abs=0.05)
    assert metrics["costs"]["executed"] > metrics["costs"]["skipped"] > 0
    assert 1 <= len(metrics["phase2"]["hard_ppl"]) <= 2
    text = (tmp_path / "one" / "report.md").read_text()
    assert "829.78" in text and "no language model's" in text
    if importlib.util.find_spec("matplotlib"):
        assert "curves.png" in text
        assert (tmp_path / "one" / "curves.png").stat().st_size > 0
    again = stopped("--protocol", "legacy", "--out", tmp_path / "one")
    assert "holds a run" in again
    texts = read_stdlib().texts
    for split in ("train", "valid"):
        path = tmp_path / f"wiki.{split}.raw"
        path.write_text(texts[split], encoding="utf-8")
    flags = ("--protocol", "legacy", "--dataset", tmp_path)
    run(*flags, "--out", tmp_path / "two")
    same = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert same["phase2"] == metrics["phase2"]


def test_the_published_figures_are_those_on_record():
    path = ROOT / "tests" / "golden" / "lego_ashem.v1.json"
    golden = json.loads(path.read_text(encoding="utf-8"))
    published = recipe("_ashem_published")
    for phase, curves in (
        ("phase1", published.PHASE1),
        ("phase2", published.PHASE2),
    ):
        for name, values in curves.items():
            column = golden[phase]["columns"].index(name)
            rows = golden[phase]["epochs"]
            assert values == [float(row[column]) for row in rows], name
    on_record = {**golden["mining"], **golden["final"], **golden["integers"]}
    for name, value in published.RESULTS.items():
        if name in on_record:
            assert value == pytest.approx(float(on_record[name])), name


def test_a_text_too_short_to_divide(tmp_path, stopped):
    path = tmp_path / "short.txt"
    path.write_text("a rose is a rose\n" * 200)
    assert "too short" in stopped("--dataset", path, "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset", "no_such_data"], "no_such_data"),
        (["--preset", "no_such_preset"], "early_exit_lm_small"),
        (["--epochs", "0"], "--epochs"),
        (["--saves-per-epoch", "0"], "--saves-per-epoch"),
        (["--learning-rate", "0"], "--learning-rate"),
        (["--arms", "full"], "must have exits"),
        (["--arms", "exits", "exits"], "each arm once"),
        (["--init", "keras"], "--protocol legacy"),
        (["--protocol", "legacy", "--epochs", "3"], "--epochs"),
        (["--protocol", "legacy", "--dataset", "none"], "wiki.train.raw"),
    ],
)
def test_bad_input_is_named(flags, message, tmp_path, stopped):
    assert message in stopped("--smoke", "--out", tmp_path, *flags)
