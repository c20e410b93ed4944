"""Fixtures and rules of the whole suite."""

import gc
import os
import shutil
import tempfile

import pytest


def pytest_configure(config):
    """One thread for each process; JAX's code compiled fast, and once."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    folder = tempfile.mkdtemp(prefix="orrery-jax-")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    # Not shared between pytest's processes: JAX does not write atomically.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    # Compiling takes most of the time here, and what is compiled runs once.
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_backend_optimization_level=0 "
        "--xla_llvm_disable_expensive_passes=true",
    )


@pytest.fixture(autouse=True, scope="module")
def forget():
    """Drops what a module has compiled: gigabytes, and time of each `gc`.

    What is left then stays to the end, and no collection looks at it again:
    Keras asks for one wherever it deletes a weight, and each would take seconds
    at the end of a long suite.
    """
    yield
    import keras

    keras.utils.clear_session()
    if keras.backend.backend() == "jax":
        import jax

        jax.clear_caches()
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seed():
    """Weights drawn by a test are the same whichever test ran before it."""
    import keras

    keras.utils.set_random_seed(0)


@pytest.fixture
def contract():
    """The contract of a layer, as a fixture."""
    from orrery.testing import run_layer_contract

    return run_layer_contract


@pytest.fixture
def data_dir():
    """The folder of the data files that are not in this repository."""
    path = os.environ.get("ORRERY_DATA_DIR")
    if not path or not os.path.isdir(path):
        pytest.skip("set ORRERY_DATA_DIR to the folder of the data files")
    return path


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """What need not run with every backend does not, but for `-m slow`.

    What starts every backend itself runs with the first one. The recipes take
    turns: each runs with the backend that its marker names.
    """
    import keras
    from orrery.testing import installed_backends

    installed = installed_backends()
    reason = None
    if len(installed) < 2:
        reason = f"compares backends; installed: {installed}"
    elif keras.backend.backend() != installed[0]:
        reason = f"starts every backend itself; runs with {installed[0]}"
    for item in items:
        turn = item.get_closest_marker("one_backend")
        if turn and keras.backend.backend() not in turn.args:
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("cross_backend"):
            # Four processes that import and compile, on a busy machine.
            item.add_marker(pytest.mark.timeout(900))
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))
