"""WikiText-2 as a tensorflow-datasets builder.

Import this module by name: nothing else in Orrery needs tensorflow-datasets
(`pip install "orrery[data]"`).
"""

import tensorflow_datasets as tfds

from .corpus import SPLITS
from .wikitext2 import HOMEPAGE, read_wikitext2

CITATION = """\
@article{merity2016pointer,
  title={Pointer Sentinel Mixture Models},
  author={Stephen Merity and Caiming Xiong and James Bradbury and Richard
          Socher},
  journal={arXiv preprint arXiv:1609.07843},
  year={2016}
}
"""


class WikiText2(tfds.core.GeneratorBasedBuilder):
    """The lines of WikiText-2, read and checked by `read_wikitext2`.

    Examples are `{"text": line}`: 36,718 train, 3,760 valid and 4,358 test
    lines, stripped of white space at both ends. Split them at white space and
    chain them, and the words are those of `read_wikitext2`.

    Args:
        zip_dir: string or path, folder that holds `wikitext-2-v1.zip`.
            Defaults to `None`; see `read_wikitext2`.
        **kwargs: arguments of `tfds.core.GeneratorBasedBuilder`, such as
            `data_dir`, where the prepared data set is kept.

    Example:
    ```python
    builder = WikiText2(zip_dir="downloads")
    builder.download_and_prepare()
    lines = builder.as_dataset(split="train")
    ```
    """

    name = "wikitext2"
    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, zip_dir=None, **kwargs):
        self.zip_dir = zip_dir
        super().__init__(**kwargs)

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description="WikiText-2, tokenised v1 files, one line an example.",
            features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
            homepage=HOMEPAGE,
            citation=CITATION,
            # The order of the lines is the text.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # The reader finds, downloads and checks the file.
        texts = read_wikitext2(self.zip_dir).texts
        return {
            split: self._generate_examples(texts[split]) for split in SPLITS
        }

    def _generate_examples(self, text):
        # Only "\n" ends a line of the files.
        for number, line in enumerate(text.removesuffix("\n").split("\n")):
            yield number, {"text": line.strip()}
