"""Run by `make wheel-test` where only the wheel and JAX are installed.

Loads every saved model that came with it and reproduces its golden outputs.
"""

import importlib.util
import sys

import orrery
from orrery.zoo.publishing import golden_differences

assert "site-packages" in orrery.__file__, orrery.__file__
for name in ("layers", "zoo", "torch", "tensorflow", "pytest"):
    assert importlib.util.find_spec(name) is None, f"{name} is installed"

names = orrery.list_models()
print(f"orrery {orrery.__version__} from {orrery.__file__}: {names}")
if not names:
    sys.exit("the wheel holds no saved model")
for name in names:
    model = orrery.load(name)
    difference = max(golden_differences(name).values())
    print(f"{name}: {model.count_params():,} weights, golden {difference:.1e}")
    assert difference <= 1e-4
