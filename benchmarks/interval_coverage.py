"""How often 90 % intervals of the saved KoVAE hold, episode by episode.

    python benchmarks/interval_coverage.py                  a minute on a core

`validation`: stretched on the validation episodes, as the saved model is, and
asked of each test episode. `all others`: stretched on all validation and test
episodes but the one that is asked, for each in turn; what the procedure holds
on average, without the luck of one split. The row `mean` is over episodes, with
a 95 % t interval. Controls and flow to come are known.

Needs the benchmark's influent files in ORRERY_DATA_DIR; `--smoke` does not.
"""

import argparse
import os
import pathlib
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "recipes"))

import _command_line  # noqa: E402

LEVEL, WINDOWS, SAMPLES = 0.9, 160, 100
SPLITS = "valid", "test"


@_command_line.plain_errors
def main(argv=None):
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--backend", default="jax", help="of the model")
    flags.add_argument("--out", type=pathlib.Path, help="not results/")
    flags.add_argument("--smoke", action="store_true", help="small episodes")
    arguments = flags.parse_args(argv)
    os.environ["KERAS_BACKEND"] = arguments.backend
    import numpy as np
    from _measure import half_width, results_file, write_csv

    def coverage(own, others):
        """Share of an episode's numbers within what others stretch to."""
        ratios = np.concatenate([found[other] for other in others])
        rank = int(np.ceil((len(ratios) + 1) * LEVEL))
        stretch = np.sort(ratios, axis=0)[rank - 1]
        return float((found[own] <= stretch).mean())

    found = error_over_bound(arguments.smoke)
    valid = [episode for episode in found if episode[0] == "valid"]
    asked = {
        "validation": [
            (episode, coverage(episode, valid))
            for episode in found
            if episode[0] == "test"
        ],
        "all others": [
            (episode, coverage(episode, [e for e in found if e != episode]))
            for episode in found
        ],
    }
    rows = []
    for stretched_on, episodes in asked.items():
        shares = [share for _, share in episodes]
        for (split, number), share in episodes:
            rows.append(
                {
                    "stretched_on": stretched_on,
                    "split": split,
                    "episode": number,
                    "coverage": share,
                    "half_width": "",
                }
            )
        half = half_width(shares) if len(shares) > 1 else ""
        rows.append(
            {
                "stretched_on": stretched_on,
                "split": "",
                "episode": "mean",
                "coverage": statistics.mean(shares),
                "half_width": half,
            }
        )
        print(f"{stretched_on}: {statistics.mean(shares):.3f}", flush=True)
    path = results_file(
        "interval_coverage",
        ["keras", arguments.backend],
        arguments.out,
        smoke=arguments.smoke,
    )
    write_csv(path, rows)
    print(f"Wrote {path}")


def error_over_bound(smoke):
    """Errors over the raw interval's bound, `(windows, H X)` an episode."""
    import numpy as np
    import orrery
    from _forecast_data import simulated
    from _forecast_scores import inputs_of
    from orrery.datasets import load_plant_data
    from orrery.metrics import central_interval

    size = ("small", "generated") if smoke else ("full", "recorded")
    data = load_plant_data("measured", *size, progress=simulated)
    model = orrery.load("kovae_bsm1")
    varying, found = data.varying(), {}
    for split in SPLITS:
        windows = data.windows(split, model.history_rows, model.horizon)
        for number in np.unique(windows["episode"]):
            mine = np.flatnonzero(windows["episode"] == number)
            mine = mine[:: max(1, len(mine) // WINDOWS)]
            part = {name: rows[mine] for name, rows in windows.items()}
            inputs = inputs_of(part, model.history_rows)
            members = model.forecast_ensemble(inputs, SAMPLES, calibrated=False)
            members = members - members.mean(axis=1, keepdims=True)
            low, high = central_interval(members, LEVEL)
            error = part["future"] - model.predict(inputs, verbose=0)
            ratio = np.maximum(error / low, error / high)[..., varying]
            found[split, int(number)] = ratio.reshape(len(ratio), -1)
    return found


if __name__ == "__main__":
    main()
