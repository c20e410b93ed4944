import numpy as np
import pytest
from orrery.datasets import load_plant_data

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
    assert counts == {"train": 6, "valid": 2, "test": 2, "storm": 1}
    data = load_plant_data("full", "small")
    for split, episodes in data.splits.items():
        read = builder.as_dataset(split=split).as_numpy_iterator()
        for example, episode in zip(read, episodes, strict=True):
            for name, rows in (
                ("states", episode.values),
                ("controls", episode.controls),
                ("influent", episode.disturbances),
            ):
                np.testing.assert_array_equal(example[name], rows)
