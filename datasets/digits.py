"""Small sets of labelled examples: handwritten digits, noisy patterns."""

import numpy as np

from .._checks import check_integer, check_real

PARTS = {"train": 0.6, "valid": 0.2, "test": 0.2}


def digits(seed=0):
    """The 1,797 handwritten digits of scikit-learn, split in three.

    Images of 8 x 8 pixels with 17 levels of grey, from the test set of the UCI
    "Optical Recognition of Handwritten Digits" (not MNIST). They come with
    scikit-learn; nothing is downloaded.

    Args:
        seed: int >= 0, of the split. Defaults to `0`.

    Returns:
        Dict of `"train"` (1,078), `"valid"` (359) and `"test"` (360), each a
        pair: float32 `(n, 64)` from 0 to 1, and int32 `(n,)` labels 0 to 9.

    Raises:
        ImportError: if scikit-learn is not installed; says how to install it.

    Example:
    >>> x, y = digits()["test"]
    >>> x.shape, y.shape
    ((360, 64), (360,))

    Reference:
        - [Alpaydin and Kaynak, 1998](https://doi.org/10.24432/C50P49)
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            'scikit-learn is not installed. Run: pip install "orrery[science]"'
        ) from error
    x, y = load_digits(return_X_y=True)
    return split(x / 16.0, y, seed)


def noisy_patterns(
    count=1_000, width=16, num_classes=4, variants=3, flips=0.1, seed=0
):
    """A synthetic task: which class did a corrupted binary pattern come from?

    Each class has a few random patterns of 0 and 1 that have nothing to do with
    each other, so no hyperplane separates the classes. Every example is one of
    them with a share of its bits flipped.

    Args:
        count: int >= 5, examples of all parts together. Defaults to `1_000`.
        width: int >= 1, bits of a pattern. Defaults to `16`.
        num_classes: int >= 2. Defaults to `4`.
        variants: int >= 1, patterns of each class. Defaults to `3`.
        flips: float in [0, 0.5), probability of a bit to be flipped. Defaults
            to `0.1`.
        seed: int >= 0, of patterns, noise and split. Defaults to `0`.

    Returns:
        Dict of pairs as `digits` gives them, `(n, width)` and `(n,)`.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
    >>> x, y = noisy_patterns(100)["train"]
    >>> x.shape, int(y.max())
    ((60, 16), 3)
    """
    for name, value, least in (
        ("count", count, 5),
        ("width", width, 1),
        ("num_classes", num_classes, 2),
        ("variants", variants, 1),
        ("seed", seed, 0),
    ):
        check_integer(name, value, least)
    check_real("flips", flips, "in [0, 0.5)", lambda share: 0 <= share < 0.5)
    generator = np.random.default_rng(seed)
    patterns = generator.integers(0, 2, (num_classes, variants, width))
    y = generator.integers(0, num_classes, count)
    chosen = patterns[y, generator.integers(0, variants, count)]
    flipped = generator.random(chosen.shape) < flips
    return split(np.where(flipped, 1 - chosen, chosen), y, seed)


def split(x, y, seed):
    """Train, valid and test part, by a permutation of the seed."""
    order = np.random.default_rng(seed).permutation(len(x))
    ends = np.cumsum([round(s * len(x)) for s in list(PARTS.values())[:-1]])
    return {
        name: (x[rows].astype("float32"), y[rows].astype("int32"))
        for name, rows in zip(PARTS, np.split(order, ends), strict=True)
    }
