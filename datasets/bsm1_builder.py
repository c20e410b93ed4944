"""The wastewater plant's episodes as a tensorflow-datasets builder.

Import this module by name: nothing else in Orrery needs tensorflow-datasets
(`pip install "orrery[data]"`).
"""

import dataclasses

import numpy as np
import tensorflow_datasets as tfds

from . import plant_data
from .bsm1 import CONTROLS, DISTURBANCES, STATE_NAMES
from .plant_data import check_choices, load_plant_data, weather_digest

HOMEPAGE = "https://github.com/wwtmodels/Benchmark-Simulation-Models"
CITATION = """\
@techreport{alex2018bsm1,
  title={Benchmark Simulation Model no. 1},
  author={Jens Alex and Lorenzo Benedetti and Jane Copp and others},
  institution={IWA Task Group on Benchmarking of Control Strategies for WWTPs},
  year={2018}
}
"""


@dataclasses.dataclass(eq=False)
class PlantConfig(tfds.core.BuilderConfig):
    """What a prepared data set was made of; each has a folder of its own."""

    size: str = "small"
    weather: str = "generated"
    influent_dir: str | None = None


class Bsm1(tfds.core.GeneratorBasedBuilder):
    """Episodes of Benchmark Simulation Model no. 1, one an example.

    An example is a dict of float64 arrays, rows a quarter of an hour apart:
    `states` `(n + 1, 145)`, `controls` `(n, 2)` and `influent` `(n, 14)`, whose
    row t acts from t to t + 1. Splits: train, validation, test and storm.

    A size and a weather are a configuration of tensorflow-datasets,
    `small_generated` for one, and lie in a folder of that name. The name of
    recorded weather ends in a hash of the files, so other files are another
    data set.

    Args:
        size: `"small"`, `"original"` or `"full"`, of `load_plant_data`.
            Defaults to `"small"`.
        weather: `"generated"` or `"recorded"`. Defaults to `"generated"`.
        influent_dir: string or path, the data folder of recorded weather.
            Defaults to `None`, the folder `ORRERY_DATA_DIR`.
        config: a `PlantConfig` in place of the three above. Defaults to
            `None`.
        **kwargs: arguments of `tfds.core.GeneratorBasedBuilder`, such as
            `data_dir`, where the prepared data set is kept.

    Raises:
        FileNotFoundError: if recorded weather is not there.
        ValueError: if the size or the weather is none of those named.

    Example:
    ```python
    builder = Bsm1(size="small")
    builder.download_and_prepare()
    episodes = builder.as_dataset(split="train")
    ```
    """

    # Other numbers are another version of the data set, too.
    VERSION = tfds.core.Version(f"{plant_data.VERSION}.0.0")

    def __init__(
        self,
        *,
        size="small",
        weather="generated",
        influent_dir=None,
        config=None,
        **kwargs,
    ):
        if config is None:
            config = _config(size, weather, influent_dir)
        super().__init__(config=config, **kwargs)

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
        config = self.builder_config
        data = load_plant_data(
            "full", config.size, config.weather, data_dir=config.influent_dir
        )
        # As tensorflow-datasets names them.
        names = {"valid": "validation"}
        return {
            names.get(split, split): self._generate_examples(episodes)
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


def _config(size, weather, influent_dir):
    check_choices(size=size, weather=weather)
    name = f"{size}_{weather}"
    if weather == "recorded":
        name += f"_{weather_digest(weather, influent_dir)[:8]}"
    folder = None if influent_dir is None else str(influent_dir)
    return PlantConfig(
        name=name, size=size, weather=weather, influent_dir=folder
    )
