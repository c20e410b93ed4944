"""What the arms of `hamiltonian_mechanics.py` are called, and their colours."""

NAMES = {
    "hamiltonian": "Hamiltonian network, symplectic",
    "separable_leapfrog": "the same, leapfrog",
    "separable_rk4": "the same, Runge-Kutta",
    "separable_euler": "the same, forward Euler",
    "plain_hnn": "HNN, not separable, Runge-Kutta",
    "neural_ode": "neural ODE, Runge-Kutta",
    "radial": "V of the distance alone, symplectic",
}
COLORS = {
    "hamiltonian": "C0",
    "separable_leapfrog": "C9",
    "separable_rk4": "C2",
    "separable_euler": "C4",
    "plain_hnn": "C1",
    "neural_ode": "C3",
    "radial": "C5",
}
