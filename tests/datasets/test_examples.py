"""The examples in the docstrings of the room of data run."""

import doctest
import importlib

import numpy as np
import pytest


@pytest.mark.parametrize(
    "name", ["blocks", "language_batches", "vocabulary", "words"]
)
def test_examples(name):
    module = importlib.import_module(f"orrery.datasets.{name}")
    result = doctest.testmod(module, extraglobs={"np": np})
    assert result.attempted > 0 and result.failed == 0
