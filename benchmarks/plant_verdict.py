"""Where 4392, 4603 and 14 to 15 per cent come from.

    python benchmarks/plant_verdict.py                  half an hour on a core

The report's measure divides the error of a window by the window's own mean,
over the five variables of largest deviation. It is applied to

- `ramp`: straight lines of 1000 a row, what the report's clipped plant had
  come to: one row ahead and twenty, far from zero and across it, forecast by
  the last value and by the training mean;
- `euler`: the plant stepped and clipped as the report did it, and `plant`: the
  same under the same controls, integrated; forecast by the last value, the
  mean, the report's autoencoder as it ran, KoVAE and MamKO, as many steps of
  training for each.

Beside it what does not divide by anything that may vanish: the error in units
of the training data's standard deviation, and the skill against persistence.
"""

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "recipes"))

import _command_line  # noqa: E402

HISTORY, HORIZON = 20, 20
STEPS, SMOKE_STEPS = 2000, 2
NETWORKS = ("KoVAE, effective", "KoVAE", "MamKO")


@_command_line.plain_errors
def main(argv=None):
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = flags.add_argument
    add("--backend", default="jax", help="of the networks")
    add("--steps", type=int, default=STEPS, help="of training")
    add("--out", type=pathlib.Path, help="folder of the CSV, not results/")
    add("--smoke", action="store_true", help="two steps, few episodes")
    arguments = flags.parse_args(argv)
    import os

    os.environ["KERAS_BACKEND"] = arguments.backend
    from _measure import results_file, write_csv

    rows = ramps() + plants(arguments)
    path = results_file(
        "plant_verdict",
        ["keras", arguments.backend],
        arguments.out,
        smoke=arguments.smoke,
    )
    write_csv(path, rows)
    for row in rows:
        print(row)
    print(f"Wrote {path}")


def row_of(data, horizon, forecaster, truth, forecast, last, scale):
    """One line of the CSV from windows `(N, H, X)`."""
    import numpy as np
    from orrery.metrics import nrmse, skill_score, window_mean_relative_error

    largest = np.argsort(-scale)[:5]
    moves = scale > 0
    parts = [x[..., moves] for x in (truth, forecast, last)]
    return {
        "data": data,
        "rows_ahead": horizon,
        "forecaster": forecaster,
        "relative_percent": window_mean_relative_error(
            truth, forecast, largest
        ),
        "nrmse": float(nrmse(*parts[:2], scale[moves]).mean()),
        "skill": float(skill_score(*parts, scale[moves]).mean()),
    }


def ramps():
    """The measure on straight lines; training data at 1e5 and above."""
    import numpy as np

    rows, scale = [], np.full(1, 1e5)
    for name, level in (
        ("ramp at 92,000", 92_000.0),
        ("ramp across 0", 0.0),
    ):
        for horizon in (1, HORIZON):
            steps = 1000.0 * np.arange(-HORIZON, HORIZON + 1)
            if level:
                steps = steps + level
            # Twenty rows whose mean of |truth| is smallest or 92,000.
            truth = steps[HORIZON - 9 : HORIZON + 11].reshape(1, -1, 1)
            if horizon == 1:
                last = truth - 1000.0
            else:
                last = np.full_like(truth, truth[0, 0, 0] - 1000.0)
            for forecaster, forecast in (
                ("last value", last),
                ("training mean, 220,000", np.full_like(truth, 2.2e5)),
            ):
                rows.append(
                    row_of(
                        name, horizon, forecaster, truth, forecast, last, scale
                    )
                )
    return rows


def plants(arguments):
    """Both plants, every forecaster."""
    import _comparison
    import numpy as np
    from _forecast_scores import inputs_of, predict
    from orrery.zoo.legacy.euler_plant import euler_series

    episodes, steps = ((2, 1), 99) if arguments.smoke else ((11, 3), 999)
    clipped = euler_series(episodes=episodes, steps=steps)
    rows = []
    for name, data in (("euler", clipped), ("plant", integrated(clipped))):
        windows = data.windows("test", HISTORY, HORIZON, stride=4)
        truth, past = windows["future"], windows["past"]
        mean, scale = data.scales()["observed"]
        scale = np.where(data.varying(), scale, 0.0)
        forecasts = {
            "last value": np.repeat(past[:, -1:], HORIZON, axis=1),
            "training mean": np.broadcast_to(mean, truth.shape),
        }
        settings = {
            "history": HISTORY,
            "horizon": HORIZON,
            "steps": SMOKE_STEPS if arguments.smoke else arguments.steps,
            "batch_size": 256,
            "learning_rate": 2e-3,
        }
        for arm in NETWORKS:
            model, _ = _comparison.train(arm, 0, data, settings)
            forecasts[arm] = predict(model, inputs_of(windows, HISTORY))
            print(name, arm, flush=True)
        for forecaster, forecast in forecasts.items():
            rows.append(
                row_of(
                    name,
                    HORIZON,
                    forecaster,
                    truth,
                    forecast,
                    past[:, -1:],
                    scale,
                )
            )
    return rows


def integrated(data):
    """The same episodes, beginnings, controls and weather, integrated."""
    import dataclasses

    import numpy as np
    from orrery.datasets import BSM1Plant, simulate_plant

    def again(episode):
        influent = np.concatenate(
            [episode.disturbances, episode.disturbances[-1:]]
        )
        run = simulate_plant(
            BSM1Plant(), episode.values[0], influent, episode.controls
        )
        return dataclasses.replace(episode, values=run["states"])

    splits = {
        split: [again(episode) for episode in part]
        for split, part in data.splits.items()
    }
    return dataclasses.replace(data, name="plant", splits=splits)


if __name__ == "__main__":
    main()
