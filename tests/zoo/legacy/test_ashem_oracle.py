"""The original's own figures: what was recorded, and what must come out.

`tests/golden/lego_ashem.v1.json` is written once; `tests/golden/CHANGES.md`
says how it would be corrected. Integers, formats and names are compared
exactly, the unit values within the relative 1e-4 of the original's own test.
`lego_ashem_wikitext2.v1.json` is this code's own record, of files that the
original did not read: a run on another backend must come out as it did.
"""

import csv
import dataclasses
import functools
import hashlib
import json
import math
import pathlib

import numpy as np
import pytest
from keras import ops
from orrery.datasets.wikitext2 import read_wikitext2
from orrery.zoo.ashem_configs import (
    ASHEMConfig,
    StageConfig,
    TrainingConfig,
    create_deep_supervision_config,
    create_standard_config,
)
from orrery.zoo.legacy.ashem import (
    collect_hard_examples,
    compute_confidence,
    compute_confidence_threshold,
    create_hard_example_loader,
    evaluate,
    evaluate_on_hard_examples,
    published_optimizer,
    train_upper_layers,
)
from orrery.zoo.legacy.ashem_data import (
    encode,
    published_batches,
    published_vocabulary,
)
from orrery.zoo.legacy.ashem_protocol import (
    LegacyExperiment,
    run_legacy_protocol,
)
from orrery.zoo.legacy.ashem_report import FORMATS
from orrery.zoo.legacy.lego_lm import LegoLM
from orrery.zoo.legacy.torch_draws import TorchDraws, draw_as_published
from orrery.zoo.staged_training import compute_loss

FOLDER = pathlib.Path(__file__).parents[2] / "golden"
PATH = FOLDER / "lego_ashem.v1.json"
OWN = FOLDER / "lego_ashem_wikitext2.v1.json"
RESULTS = FOLDER.parents[1] / "results"
SHA256 = {
    PATH.name: (
        "39056f17a2194d6f686443f88b341fc5115f2ffb93416111acd0f6294e7e266c"
    ),
    OWN.name: (
        "0597d8a957d06546fba66f345c4782d7b6d9fd99b01a98ce8e8f02347a744bc4"
    ),
}
DRAWS_SHA256 = (
    "9a60fa92f3fc98708a64e1ccc81bd531dcb0abafbdfc370835686751fa8a5e1b"
)
# Of the tokenised files, by the original's rule; read off, no figure of its.
COUNTS = {
    "vocabulary_size": 28_912,
    "train": (161, 17_247),
    "valid": (32, 28_853),
}


def read_golden(path):
    """The record, if not a byte of it was changed."""
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256[path.name]:
        raise ValueError(
            f"{path.name} was changed: its sha256 is {digest}. It is written "
            "once; see tests/golden/CHANGES.md."
        )
    return json.loads(content)


GOLDEN = read_golden(PATH)


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


# The record


def test_a_changed_byte_is_noticed(tmp_path):
    copy = tmp_path / PATH.name
    copy.write_bytes(PATH.read_bytes())
    assert read_golden(copy) == GOLDEN
    copy.write_bytes(PATH.read_bytes().replace(b"829.78", b"829.79", 1))
    with pytest.raises(ValueError, match="CHANGES.md"):
        read_golden(copy)
    assert PATH.name in (PATH.parent / "CHANGES.md").read_text("utf-8")


def leaves(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [leaf for part in value for leaf in leaves(part)]
    return [value]


def test_figures_are_kept_as_they_were_printed():
    assert {type(leaf) for leaf in leaves(GOLDEN)} == {str, type(None)}


def test_the_record_agrees_with_itself():
    whole = {name: int(text) for name, text in GOLDEN["integers"].items()}
    assert whole["train_tokens"] == whole["train_batches"] * 64 * 32
    assert whole["valid_tokens"] == whole["valid_batches"] * 64 * 32
    assert whole["num_hard_examples"] == whole["hard_batches"] * 64
    assert whole["num_hard_examples"] * 2 == whole["valid_tokens"]
    block = whole["parameters_per_block"]
    four = whole["parameters_four_layers"]
    assert four - whole["parameters_two_layers"] == 2 * block
    assert whole["parameters_of_the_six_layer_fault"] - four == 2 * block
    for phase in ("phase1", "phase2"):
        record = GOLDEN[phase]
        curve = [float(row[2]) for row in record["epochs"]]
        assert int(record["best_epoch"]) == np.argmin(curve) + 1
        assert int(record["stop_epoch"]) == len(curve)
    final, mining = GOLDEN["final"], GOLDEN["mining"]
    hard = float(mining["phase1_hard_ppl"])
    best = float(GOLDEN["phase2"]["epochs"][6][4])
    # Printed of unrounded numbers.
    gain = float(final["hard_ppl_improvement"])
    assert hard - best == pytest.approx(gain, abs=0.011)
    share = float(final["shallow_ratio_percent"])
    cost = float(final["compute_cost_percent"])
    assert 100 - share / 2 == pytest.approx(cost, abs=0.03)
    ratio = whole["num_hard_examples"] / (10_000 * 0.2 * 32)
    assert f"{100 * ratio:.1f}" == mining["printed_ratio_percent"]


# Integers, formats, names: exactly


def test_sizes():
    whole = {name: int(text) for name, text in GOLDEN["integers"].items()}
    shallow = LegoLM(whole["vocabulary_size"], num_layers=2)
    deep = shallow.extend(2)
    trained = sum(math.prod(w.shape) for w in deep.trainable_weights)
    assert shallow.num_parameters == whole["parameters_two_layers"]
    assert deep.num_parameters == whole["parameters_four_layers"]
    assert trained == whole["trainable_parameters_phase2"]
    block = deep.decoder_layers[0].count_params()
    assert block == whole["parameters_per_block"]
    line = FORMATS["trainable"].format(
        trained, deep.num_parameters, 100 * trained / deep.num_parameters
    )
    assert line == "  Trainable params: 4,600,448 / 9,200,896 (50.0%)"
    # Fault 8: what counts as a saving while the head is left out.
    cost = deep.compute_cost([0.7036], policy="selected")
    recorded = float(GOLDEN["final"]["compute_cost_percent"]) / 100
    assert cost["layers_only"] == pytest.approx(recorded, abs=1e-4)
    assert cost["macs_with_head"] == pytest.approx(1.260, abs=1e-3)
    assert cost["macs_executed"] == pytest.approx(1.945, abs=1e-3)


def test_batches():
    for split, count in (("train", 330_000), ("valid", 66_000)):
        batches = published_batches(np.arange(count))
        assert len(batches) == int(GOLDEN["integers"][f"{split}_batches"])
        tokens = sum(x.size for x, _ in batches)
        assert tokens == int(GOLDEN["integers"][f"{split}_tokens"])
    hard = int(GOLDEN["integers"]["num_hard_examples"])
    examples = {
        "hidden_states": np.zeros((hard, 1), "float32"),
        "targets": np.zeros(hard, "int32"),
    }
    batches = create_hard_example_loader(examples, 64, seed=42)
    assert len(batches) == int(GOLDEN["integers"]["hard_batches"])


def test_formats():
    assert FORMATS == GOLDEN["formats"]
    first, second = GOLDEN["phase1"]["epochs"][0], GOLDEN["phase2"]["epochs"][0]
    line = FORMATS["phase1_epoch"].format(1, 50, *map(float, first[1:4]))
    assert line == (
        "Epoch 1/50 - Train PPL: 3208.8367 | Val PPL: 1155.4391 | "
        "Val Acc: 14.53%"
    )
    line = FORMATS["phase2_epoch"].format(1, 50, *map(float, second[1:]))
    assert line == (
        "Epoch 1/50 - Train PPL: 2934.9146 | Val PPL: 987.12 | "
        "Val Acc: 15.72% | Hard PPL: 1797.55"
    )
    loss = math.log(float(first[2]))
    assert FORMATS["phase1_best"].format(loss).endswith(f"{first[4]})")
    assert (
        FORMATS["collected"].format(32768) == "✓ Collected 32,768 hard examples"
    )
    assert FORMATS["improvement"].format(2095.6, 75.8) == (
        "  Hard PPL Improvement: +2095.60 (+75.8%)"
    )


def test_configurations():
    defaults = dataclasses.asdict(ASHEMConfig())
    assert {k: str(v) for k, v in defaults.items()} == GOLDEN["ashem_config"]
    routed = TrainingConfig([StageConfig((4, 4))], 0.15, exit_layer=2)
    described = {
        "standard": create_standard_config(2).describe(),
        "routed": routed.describe(),
        "deep_supervision": create_deep_supervision_config(3).describe(),
    }
    assert described == GOLDEN["describe"]
    experiment = LegacyExperiment()
    assert experiment.seed == int(GOLDEN["environment"]["random_seed"])


def test_names_of_what_is_returned():
    keys = GOLDEN["keys"]
    assert list(unit_scores()) == keys["evaluate"]
    assert list(unit_mined()[1]) == keys["hard_examples"]


def test_counts_of_the_tokenised_files(data_dir):
    """No figure of the original: it read the raw files, V = 69,830."""
    texts = read_wikitext2(data_dir, download=False).texts
    vocabulary = published_vocabulary(texts)
    counts = {"vocabulary_size": len(vocabulary)}
    for split, size in (("train", 330_000), ("valid", 66_000)):
        ids = encode(texts[split], vocabulary)[:size]
        counts[split] = len(published_batches(ids)), int(ids.max())
    assert counts == COUNTS


# The unit values, on weights drawn as PyTorch draws them


def unit(num_layers, exit_layer=None, threshold=None):
    config = {k: int(v) for k, v in GOLDEN["unit"]["config"].items()}
    model = LegoLM(
        num_layers=num_layers,
        exit_layer=exit_layer,
        threshold=threshold,
        **config,
    )
    draw_as_published(model, TorchDraws(42))
    return model


@functools.cache
def two_layers():
    return unit(2)


def unit_batches():
    batches = []
    for seed in range(42, 46):
        draws = TorchDraws(seed)
        batches.append(tuple(draws.integers(100, (8, 16)) for _ in "xy"))
    return batches


@functools.cache
def unit_scores():
    return evaluate(two_layers(), unit_batches())


@functools.cache
def unit_mined():
    model, batches = two_layers(), unit_batches()
    level = compute_confidence_threshold(model, batches, 0.5)
    return level, collect_hard_examples(model, batches, level)


def unit_pair():
    draws = TorchDraws(42)
    return draws.integers(100, (2, 8)), draws.integers(100, (2, 8))


def check(group, values):
    """Each is what was printed, to the relative bound."""
    bound = float(GOLDEN["unit_environment"]["relative_bound"])
    for name, value in values.items():
        expected = float(GOLDEN["unit"][group][name])
        assert float(value) == pytest.approx(expected, rel=bound), name


def test_unit_values_of_two_layers():
    model, batches = two_layers(), unit_batches()
    tokens, targets = unit_pair()
    level, found = unit_mined()
    confidence = compute_confidence(model, model.forward_to_hidden(tokens))
    standard = create_standard_config(2)
    supervised = create_deep_supervision_config(2)
    scores = unit_scores()
    values = {
        "forward_mean": numpy(model(tokens)).mean(dtype="float64"),
        "confidence_mean": numpy(confidence).mean(dtype="float64"),
        "threshold": level,
        "num_hard": len(found["targets"]),
        "num_tokens": sum(x.size for x, _ in batches),
        "hard_confidence_mean": found["confidences"].mean(dtype="float64"),
        "loss": numpy(compute_loss(model, tokens, targets, standard)),
        "deep_supervision_loss": numpy(
            compute_loss(model, tokens, targets, supervised)
        ),
        "ppl": scores["ppl"],
        "acc": scores["acc"],
        "hard_ppl": evaluate_on_hard_examples(model, found),
    }
    assert set(values) == set(GOLDEN["unit"]["two_layers"])
    check("two_layers", values)
    assert values["num_hard"] == 256 and values["num_tokens"] == 512


def test_unit_values_of_four_layers():
    level = float(GOLDEN["unit"]["four_layers"]["routed_threshold"])
    model = unit(4, 2, level)
    tokens, _ = unit_pair()
    scores = evaluate(model, unit_batches())
    check(
        "four_layers",
        {
            "forward_mean": numpy(model(tokens)).mean(dtype="float64"),
            "routed_ppl": scores["ppl"],
            "routed_shallow_ratio": scores["shallow_ratio"],
            "routed_compute_cost": scores["compute_cost"],
        },
    )


def test_unit_values_after_an_epoch_of_the_upper_layers():
    model, batches = two_layers(), unit_batches()
    record = GOLDEN["unit"]["after_one_epoch"]
    level, found = unit_mined()
    deep = model.extend(
        2, level, initialise=lambda new: draw_as_published(new, TorchDraws(42))
    )
    loader = create_hard_example_loader(
        found, int(record["batch_size"]), seed=42
    )
    assert len(loader) == int(record["batches"])
    optimizer = published_optimizer(float(record["learning_rate"]))
    loss = train_upper_layers(deep, loader, optimizer)
    scores = evaluate(deep, batches)
    check(
        "after_one_epoch",
        {
            "loss": loss,
            "hard_ppl": evaluate_on_hard_examples(deep, found),
            "routed_ppl": scores["ppl"],
            "shallow_ratio": scores["shallow_ratio"],
            "compute_cost": scores["compute_cost"],
        },
    )


def test_draws_are_the_same_everywhere():
    """What all initial weights are made of, bit for bit."""
    raw = TorchDraws(42).raw(4096).astype("<u4")
    assert hashlib.sha256(raw.tobytes()).hexdigest() == DRAWS_SHA256
    for one, two in zip(
        two_layers().get_weights(), unit(2).get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, two)


# The whole run on the tokenised files: this code's own record


def rows_of(name):
    path = RESULTS / f"ashem_legacy_wikitext2_{name}.csv"
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_what_is_published_is_the_own_record():
    own = read_golden(OWN)
    figures = {row["figure"]: row["here"] for row in rows_of("figures")}
    assert figures == own["figures"]
    names = "valid perplexity", "train perplexity", "hard perplexity"
    for phase in "12":
        published = [
            [row["epoch"], *(row[name] or None for name in names)]
            for row in rows_of("epochs")
            if row["phase"] == phase
        ]
        assert published == own["epochs"][f"phase{phase}"]


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_run_comes_out_as_it_did(data_dir):
    """Half an hour. From the same weights, on any backend."""
    own = read_golden(OWN)
    figures = {name: float(text) for name, text in own["figures"].items()}
    texts = read_wikitext2(data_dir, download=False).texts
    results, details = run_legacy_protocol(texts)
    for phase, bound in (("phase1", 0.01), ("phase2", 0.02)):
        expected = [float(row[1]) for row in own["epochs"][phase]]
        found = details[f"{phase}_history"]["val_ppl"]
        # As many epochs, and the same one is best.
        assert np.argmin(found) == np.argmin(expected)
        np.testing.assert_allclose(found, expected, rtol=bound)
    assert details["vocabulary_size"] == figures["words"]
    assert details["threshold"] == pytest.approx(figures["threshold"], abs=2e-3)
    hard = figures["hard perplexity without context, phase 1"]
    assert results["phase1_hard_ppl"] == pytest.approx(hard, rel=0.02)
    hard = figures["the same after phase 2"]
    assert results["phase2_hard_ppl"] == pytest.approx(hard, rel=0.02)
    left = figures["leave at the exit, %"]
    assert 100 * results["shallow_ratio"] == pytest.approx(left, abs=1.5)
    cost = figures["cost of layers alone, %"]
    assert 100 * results["compute_cost"] == pytest.approx(cost, abs=0.75)
