"""KoVAE and the report's model by hand in PyTorch, for `kovae_step.py`."""

import numpy as np
import torch
from torch.nn import functional

SQUARINGS = 10
PARAMETERS = {
    "prior/operator/kernel": "operator",
    "prior/operator/input_kernel": "acting",
    "prior/noise_logvar": "noise",
}


class Encoder(torch.nn.Module):
    """A GRU, its normalised states, means and log variances."""

    def __init__(self, width, latent, hidden, dropout):
        super().__init__()
        self.recurrent_0 = torch.nn.GRU(width, hidden, batch_first=True)
        self.normalization = torch.nn.LayerNorm(hidden, eps=1e-3)
        self.dropout = torch.nn.Dropout(dropout)
        self.mean = torch.nn.Linear(hidden, latent)
        self.logvar = torch.nn.Linear(hidden, latent)

    def forward(self, x):
        hidden = self.normalization(self.recurrent_0(x)[0])
        hidden = self.dropout(torch.tanh(hidden))
        return self.mean(hidden), self.logvar(hidden).clamp(-8.0, 4.0)


class Decoder(torch.nn.Module):
    """Reads a latent path row by row, or through a GRU."""

    def __init__(self, latent, hidden, width, recurrent, dropout):
        super().__init__()
        self.recurrent = recurrent
        if recurrent:
            self.hidden_0 = torch.nn.GRU(latent, hidden, batch_first=True)
        else:
            self.hidden_0 = torch.nn.Linear(latent, hidden)
        self.normalization = torch.nn.LayerNorm(hidden, eps=1e-3)
        self.dropout = torch.nn.Dropout(dropout)
        self.output_layer = torch.nn.Linear(hidden, width)

    def forward(self, z):
        hidden = self.hidden_0(z)
        hidden = hidden[0] if self.recurrent else torch.tanh(hidden)
        hidden = torch.tanh(self.normalization(hidden))
        return self.output_layer(self.dropout(hidden))


class KoVAE(torch.nn.Module):
    """The preset `new`: a free operator with a penalty, a pointwise decoder."""

    def __init__(self, sizes, latent, hidden, weights, margin, dropout):
        super().__init__()
        observed, acting = sizes[0], sizes[1] + sizes[2]
        self.weights, self.margin = weights, margin
        self.encoder = Encoder(observed + acting, latent, hidden, dropout)
        self.operator = torch.nn.Parameter(0.99 * torch.eye(latent))
        self.acting = torch.nn.Parameter(torch.zeros(acting, latent))
        self.noise = torch.nn.Parameter(torch.full((latent,), -2.0))
        self.decoder = Decoder(latent, hidden, observed, False, dropout)

    def forward(self, past, acting, future, noise=None):
        """The loss of scaled rows, and the forecast; z is the mean or drawn."""
        rows = past.shape[1]
        x = torch.cat([past, future], dim=1)
        before = functional.pad(acting[:, : x.shape[1] - 1], (0, 0, 1, 0))
        mean, logvar = self.encoder(torch.cat([x, before], dim=-1))
        z = mean
        if noise is not None:
            z = mean + torch.exp(0.5 * logvar) * noise
        driven = acting @ self.acting
        transition = self.operator.T
        expected = functional.pad(z[:, :-1] @ transition + driven, (0, 0, 1, 0))
        spread = functional.pad(
            self.noise.expand(z.shape[0], z.shape[1] - 1, -1), (0, 0, 1, 0)
        )
        divergence = gaussian_divergence(mean, logvar, expected, spread)
        state, rolled = z[:, rows - 1], []
        for step in range(future.shape[1]):
            state = state @ transition + driven[:, rows - 1 + step]
            rolled.append(state)
        rolled = torch.stack(rolled, dim=1)
        decoded = self.decoder(torch.cat([z[:, :rows], rolled], dim=1))
        seen, ahead = decoded[:, :rows], decoded[:, rows:]
        forecast = past[:, -1:] + ahead - seen[:, -1:]
        excess = functional.relu(radius(self.operator) - (1 - self.margin))
        terms = {
            "divergence": divergence.mean() * z.shape[-1],
            "reconstruction": (seen - past).square().mean(),
            "latent": (rolled - mean[:, rows:]).square().mean(),
            "penalty": excess.square(),
            "forecast": (forecast - future).square().mean(),
        }
        loss = sum(self.weights[name] * terms[name] for name in self.weights)
        return loss, forecast


class Effective(torch.nn.Module):
    """What the report's code ran: see `orrery.zoo.legacy.kovae`."""

    def __init__(self, sizes, latent, hidden, weights, dropout):
        super().__init__()
        width = sum(sizes)
        self.weights = weights
        self.encoder = Encoder(width, latent, hidden, dropout)
        self.prior = torch.nn.GRU(1, hidden, batch_first=True)
        self.moments = torch.nn.Linear(hidden, 2 * latent)
        self.decoder = Decoder(latent, hidden, width, True, dropout)

    def forward(self, rows, noise=None, path_noise=None):
        """The loss of scaled rows `(B, T, X + m + p)`."""
        mean, logvar = self.encoder(rows)
        z = mean
        if noise is not None:
            z = mean + torch.exp(0.5 * logvar) * noise
        moments = self.moments(self.prior(torch.zeros_like(rows[:1, :, :1]))[0])
        prior_mean, prior_logvar = moments.expand(len(rows), -1, -1).chunk(
            2, dim=-1
        )
        path = prior_mean
        if path_noise is not None:
            path = path + torch.exp(0.5 * prior_logvar) * path_noise
        decoded = self.decoder(z)
        divergence = gaussian_divergence(mean, logvar, prior_mean, prior_logvar)
        terms = {
            "reconstruction": (decoded - rows).square().mean(),
            "divergence": divergence.mean(),
            "agreement": (z - path).square().mean(),
        }
        return sum(self.weights[name] * terms[name] for name in self.weights)


def gaussian_divergence(mean, logvar, other_mean, other_logvar):
    """Of each latent number, in nats."""
    square = torch.exp(logvar) + (mean - other_mean).square()
    return 0.5 * (
        other_logvar - logvar + square * torch.exp(-other_logvar) - 1.0
    )


def radius(matrix):
    """`|A^N|_F^(1/N)`, N = 1024."""
    norm = torch.linalg.matrix_norm(matrix)
    power, logarithm = matrix / norm, torch.log(norm)
    for _ in range(SQUARINGS):
        power = power @ power
        norm = torch.linalg.matrix_norm(power)
        power, logarithm = power / norm, 2 * logarithm + torch.log(norm)
    return torch.exp(logarithm / 2**SQUARINGS)


def take(peer, arrays):
    """Give a peer the weights of a Keras model, by their paths in it."""
    found = {}
    for path, array in arrays.items():
        found |= _renamed(path, array)
    found = {name: torch.tensor(array) for name, array in found.items()}
    peer.load_state_dict(found)


def _renamed(path, array):
    """The same weight as PyTorch names it and lays it out."""
    if path in PARAMETERS:
        return {PARAMETERS[path]: array}
    *owner, kind = path.split("/")
    if owner[-1] != "gru_cell":
        name = {"kernel": "weight", "gamma": "weight"}.get(kind, "bias")
        array = array.T if kind == "kernel" else array
        return {f"{'.'.join(owner)}.{name}": array}
    owner = ".".join(owner[:-1])
    # Keras: update, reset, candidate. PyTorch: reset, update, candidate.
    update, reset, candidate = np.split(array, 3, axis=-1)
    array = np.concatenate([reset, update, candidate], axis=-1)
    if kind == "bias":
        return {
            f"{owner}.bias_ih_l0": array[0],
            f"{owner}.bias_hh_l0": array[1],
        }
    side = {"kernel": "ih", "recurrent_kernel": "hh"}[kind]
    return {f"{owner}.weight_{side}_l0": array.T}
