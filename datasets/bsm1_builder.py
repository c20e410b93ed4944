"""The wastewater plant's episodes as a tensorflow-datasets builder.

Import this module by name: nothing else in Orrery needs tensorflow-datasets
(`pip install "orrery[data]"`).
"""

import numpy as np
import tensorflow_datasets as tfds

from .bsm1 import CONTROLS, DISTURBANCES, STATE_NAMES
from .plant_data import load_plant_data

HOMEPAGE = "https://github.com/wwtmodels/Benchmark-Simulation-Models"
CITATION = """\
@techreport{alex2018bsm1,
  title={Benchmark Simulation Model no. 1},
  author={Jens Alex and Lorenzo Benedetti and Jane Copp and others},
  institution={IWA Task Group on Benchmarking of Control Strategies for WWTPs},
  year={2018}
}
"""


class Bsm1(tfds.core.GeneratorBasedBuilder):
    """Episodes of Benchmark Simulation Model no. 1, one an example.

    An example is a dict of float64 arrays, rows a quarter of an hour apart:
    `states` `(n + 1, 145)`, `controls` `(n, 2)` and `influent` `(n, 14)`, whose
    row t acts from t to t + 1. Splits: train, valid, test and storm.

    Args:
        size: `"small"`, `"original"` or `"full"`, of `load_plant_data`.
            Defaults to `"small"`.
        weather: `"generated"` or `"recorded"`. Defaults to `"generated"`.
        influent_dir: folder of recorded weather. Defaults to `None`.
        **kwargs: arguments of `tfds.core.GeneratorBasedBuilder`, such as
            `data_dir`, where the prepared data set is kept.

    Example:
    ```python
    builder = Bsm1(size="small")
    builder.download_and_prepare()
    episodes = builder.as_dataset(split="train")
    ```
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(
        self, *, size="small", weather="generated", influent_dir=None, **kwargs
    ):
        self.size, self.weather = size, weather
        self.influent_dir = influent_dir
        super().__init__(**kwargs)

    def _info(self):
        def rows(names):
            # As bytes: a list of numbers is kept in float32.
            return tfds.features.Tensor(
                shape=(None, len(names)),
                dtype=np.float64,
                encoding=tfds.features.Encoding.ZLIB,
            )

        return tfds.core.DatasetInfo(
            builder=self,
            description="Episodes of a simulated wastewater treatment plant.",
            features=tfds.features.FeaturesDict(
                {
                    "states": rows(STATE_NAMES),
                    "controls": rows(CONTROLS),
                    "influent": rows(DISTURBANCES),
                }
            ),
            homepage=HOMEPAGE,
            citation=CITATION,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # The plant is simulated, or read from the cache.
        data = load_plant_data(
            "full", self.size, self.weather, data_dir=self.influent_dir
        )
        return {
            split: self._generate_examples(episodes)
            for split, episodes in data.splits.items()
        }

    def _generate_examples(self, episodes):
        for number, episode in enumerate(episodes):
            yield (
                number,
                {
                    "states": episode.values,
                    "controls": episode.controls,
                    "influent": episode.disturbances,
                },
            )
