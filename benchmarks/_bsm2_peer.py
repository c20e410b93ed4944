"""bsm2-python's open loop on a given influent; run by its own interpreter.

    python _bsm2_peer.py IN.npz OUT.npz

IN has `influent`, a row of time (d), thirteen components and flow for each 15
minutes, and the state to begin with: `tanks` (5, 13), `layers` (10, 8), the
settler's solubles and suspended solids with the top layer first, and
`underflow` (13,). OUT receives the effluent at these times and the seconds that
the simulation took, compilation and set-up not counted.
"""

import sys
import time

import numpy as np
from bsm2_python.bsm1_ol import BSM1OL

MINUTE = 1 / (24 * 60)


def main(source, target):
    given = np.load(source)
    rows = given["influent"]
    solids = 0.75 * rows[:, [3, 4, 5, 6, 7]].sum(axis=1)
    data = np.zeros((len(rows), 22))
    data[:, :14] = rows[:, :14]
    # Suspended solids, flow, 15 degrees Celsius.
    data[:, 14], data[:, 15], data[:, 16] = solids, rows[:, 14], 15.0
    plant = BSM1OL(data_in=data[:3], timestep=MINUTE, evaltime=0)
    for step in range(10):  # Compiles.
        plant.step(step)
    plant = BSM1OL(data_in=data, timestep=MINUTE, evaltime=0)
    begin(plant, given)
    steps = len(plant.timesteps)
    start = time.perf_counter()
    for step in range(steps):
        plant.step(step)
    seconds = time.perf_counter() - start
    np.savez(
        target,
        effluent=plant.ys_eff_all[14:steps:15, :13],
        seconds=seconds,
        steps=steps,
    )


def begin(plant, given):
    """The state that is given, in the place of its own initial values."""
    reactors = [getattr(plant, f"reactor{k}") for k in range(1, 6)]
    flow = given["influent"][0, -1] + 55_338.0 + 18_446.0
    for reactor, tank in zip(reactors, given["tanks"], strict=True):
        reactor.y0 = stream(tank, flow)
    plant.y_out5_r = stream(given["tanks"][-1], 55_338.0)
    plant.ys_out = stream(given["underflow"], 18_446.0)
    layers = np.zeros((12, 10))
    layers[:8], layers[8] = given["layers"].T, 15.0
    plant.settler.ys0 = layers.ravel()


def stream(components, flow):
    """Its 21 numbers: components, solids, flow, temperature, five unused."""
    solids = 0.75 * components[2:7].sum()
    return np.concatenate([components, [solids, flow, 15.0], np.zeros(5)])


if __name__ == "__main__":
    main(*sys.argv[1:])
