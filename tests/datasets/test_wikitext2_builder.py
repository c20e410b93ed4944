import pytest
from orrery.datasets.wikitext2 import read_wikitext2

pytestmark = pytest.mark.filterwarnings("ignore")  # Those of other libraries.


def test_lines_are_those_of_the_reader(data_dir, tmp_path):
    pytest.importorskip("tensorflow_datasets")
    from orrery.datasets.wikitext2_builder import WikiText2

    builder = WikiText2(zip_dir=data_dir, data_dir=tmp_path)
    builder.download_and_prepare()
    counts = {name: s.num_examples for name, s in builder.info.splits.items()}
    assert counts == {"train": 36_718, "valid": 3_760, "test": 4_358}
    lines = [
        example["text"].numpy().decode()
        for example in builder.as_dataset(split="valid")
    ]
    words = [word for line in lines for word in line.split()]
    assert words == read_wikitext2(data_dir).words("valid")
