import pickle

import numpy as np
import pytest
from orrery.datasets import load_plant_data, plant_data
from orrery.datasets.bsm1 import CONTROLS, DISTURBANCES, STATE_NAMES
from orrery.datasets.influent import generated_influent
from orrery.datasets.series import Episode, SeriesData

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # Those of other libraries.
    pytest.mark.one_backend("tensorflow"),
]


def test_episodes_are_those_of_the_loader(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("scipy")
    from orrery.datasets.bsm1_builder import Bsm1

    builder = Bsm1(size="small", data_dir=tmp_path)
    builder.download_and_prepare()
    counts = {name: s.num_examples for name, s in builder.info.splits.items()}
    assert counts == {"train": 6, "validation": 2, "test": 2, "storm": 1}
    data = load_plant_data("full", "small")
    for split, episodes in data.splits.items():
        split = {"valid": "validation"}.get(split, split)
        read = builder.as_dataset(split=split).as_numpy_iterator()
        for example, episode in zip(read, episodes, strict=True):
            for name, rows in (
                ("states", episode.values),
                ("controls", episode.controls),
                ("influent", episode.disturbances),
            ):
                np.testing.assert_array_equal(example[name], rows)


@pytest.fixture
def builders(monkeypatch):
    """The builder's module, whose data are numbers that say what they are."""
    pytest.importorskip("tensorflow_datasets")
    from orrery.datasets import bsm1_builder

    def few(task, size, weather, data_dir=None):
        assert task == "full"
        number = {"small": 1.0, "full": 2.0}[size]
        number += 0.5 * (weather == "recorded")
        rows = [np.full((n, k), number) for n, k in ((3, 145), (2, 2), (2, 14))]
        splits = ("train", "valid", "test", "storm")
        return SeriesData(
            name="few",
            observed=STATE_NAMES,
            controls=CONTROLS,
            disturbances=DISTURBANCES,
            step=0.25,
            splits={split: [Episode(*rows)] for split in splits},
            metadata={"folder": data_dir},
        )

    monkeypatch.setattr(bsm1_builder, "load_plant_data", few)
    return bsm1_builder


def first(builder):
    """The number of which a data set is made, prepared if it is not yet."""
    builder.download_and_prepare()
    (example,) = builder.as_dataset(split="validation").as_numpy_iterator()
    return example["states"][0, 0]


def test_each_size_and_weather_has_its_folder(builders, tmp_path, monkeypatch):
    weather = [generated_influent(1)], generated_influent(1), None
    monkeypatch.setattr(plant_data, "_weather", lambda *_: weather)
    given = {
        1.0: {},
        2.0: {"size": "full"},
        1.5: {"weather": "recorded", "influent_dir": tmp_path},
        2.5: {"size": "full", "weather": "recorded"},
    }
    for _ in range(2):  # Made, then read.
        for number, arguments in given.items():
            builder = builders.Bsm1(data_dir=tmp_path, **arguments)
            assert first(builder) == number
    assert len(list((tmp_path / "bsm1").iterdir())) == 4
    assert builder.builder_config.name.startswith("full_recorded_")


def test_other_files_are_another_data_set(builders, tmp_path, monkeypatch):
    names = set()
    for days in (1, 2):
        weather = [generated_influent(days)], generated_influent(1), None
        monkeypatch.setattr(plant_data, "_weather", lambda *_, w=weather: w)
        builder = builders.Bsm1(weather="recorded", data_dir=tmp_path)
        names.add(builder.builder_config.name)
    assert len(names) == 2


def test_a_builder_is_sent_to_other_processes(builders, tmp_path):
    builder = builders.Bsm1(size="full", data_dir=tmp_path)
    again = pickle.loads(pickle.dumps(builder))
    assert again.builder_config.size == "full"
    assert first(again) == 2.0


def test_the_version_is_that_of_the_numbers(builders):
    assert builders.Bsm1.VERSION.major == plant_data.VERSION


@pytest.mark.parametrize("given", [{"size": "huge"}, {"weather": "storm"}])
def test_bad_input_is_named(builders, tmp_path, given):
    with pytest.raises(ValueError, match=f"`{next(iter(given))}` must be one"):
        builders.Bsm1(data_dir=tmp_path, **given)
