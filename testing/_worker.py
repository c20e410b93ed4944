"""One phase of a cross-backend comparison, in a process of its own.

python -m orrery.testing._worker SCRIPT FUNCTION MODEL [OUTPUTS]
"""

import importlib
import importlib.util
import pathlib
import sys

import numpy as np


def main(script, function, model, outputs=None):
    """Call a function of a script; save the arrays that it returns."""
    arrays = getattr(_module(script), function)(model)
    if outputs is not None:
        np.savez(outputs, **{k: np.asarray(v) for k, v in arrays.items()})


def _module(script):
    if not script.endswith(".py"):
        return importlib.import_module(script)
    # As for a script that is run: its neighbours can be imported.
    sys.path.insert(0, str(pathlib.Path(script).resolve().parent))
    spec = importlib.util.spec_from_file_location(
        "cross_backend_script", script
    )
    module = importlib.util.module_from_spec(spec)
    # Keras looks up the classes of a script under its module's name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main(*sys.argv[1:])
