"""The attention model of `KoopmanLM`, hand-written in plain PyTorch.

The peer of the training-step benchmark: what an engineer writes who has only
PyTorch, with the fastest pieces that PyTorch brings (fused attention, RMSNorm
and AdamW) and a choice of three heads. No Keras.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

HEADS = ("naive", "chunked", "library")
ROTARY_BASE = 10_000.0
CHUNK_SIZE = 128
EPSILON = 1e-7
BETAS = (0.9, 0.999)


class ChunkedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of a linear head; the gradient is formed forwards."""

    @staticmethod
    def forward(context, hidden, weight, bias, targets):
        scale = 1.0 / len(hidden)
        loss = hidden.new_zeros(())
        d_hidden, d_weight = [], torch.zeros_like(weight)
        d_bias = torch.zeros_like(bias)
        for h, y in zip(
            hidden.split(CHUNK_SIZE), targets.split(CHUNK_SIZE), strict=True
        ):
            scores = torch.addmm(bias, h, weight.t())
            normaliser = scores.logsumexp(-1, keepdim=True)
            picked = scores.gather(1, y[:, None])
            loss = loss + (normaliser - picked).sum() * scale
            g = scores.sub_(normaliser).exp_().mul_(scale)
            g.scatter_add_(1, y[:, None], torch.full_like(picked, -scale))
            d_hidden.append(g @ weight)
            d_weight.addmm_(g.t(), h)
            d_bias.add_(g.sum(0))
        context.save_for_backward(torch.cat(d_hidden), d_weight, d_bias)
        return loss

    @staticmethod
    def backward(context, upstream):
        gradients = (upstream * g for g in context.saved_tensors)
        return (*gradients, None)


def crossentropy(head, hidden, weight, bias, targets):
    """Mean cross-entropy of the logits `hidden @ weight.T + bias`.

    Args:
        head: `"naive"` (all logits, `F.cross_entropy`), `"chunked"` (the
            function above) or `"library"` (`F.linear_cross_entropy`, PyTorch's
            own chunked head, from 2.12 on).
        hidden: float tensor `(T, d)`.
        weight: float tensor `(V, d)`.
        bias: float tensor `(V,)`.
        targets: int64 tensor `(T,)`.
    """
    if head == "naive":
        return F.cross_entropy(F.linear(hidden, weight, bias), targets)
    if head == "chunked":
        return ChunkedCrossEntropy.apply(hidden, weight, bias, targets)
    return F.linear_cross_entropy(
        hidden,
        weight,
        targets,
        linear_bias=bias,
        options=nn.LinearCrossEntropyOptions(),
    )


class Attention(nn.Module):
    """Causal attention with rotary positions."""

    def __init__(self, dim, num_heads, length):
        super().__init__()
        self.shape = (num_heads, dim // num_heads)
        self.query_key_value = nn.Linear(dim, 3 * dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)
        half = self.shape[1] // 2
        rate = ROTARY_BASE ** (-torch.arange(half) / half)
        angle = torch.arange(length)[:, None] * rate
        self.register_buffer("cosine", angle.cos())
        self.register_buffer("sine", angle.sin())

    def rotate(self, x):
        a, b = x.chunk(2, dim=-1)
        return torch.cat(
            [
                a * self.cosine - b * self.sine,
                b * self.cosine + a * self.sine,
            ],
            dim=-1,
        )

    def forward(self, x):
        q, k, v = (
            part.unflatten(-1, self.shape).transpose(1, 2)
            for part in self.query_key_value(x).chunk(3, dim=-1)
        )
        y = F.scaled_dot_product_attention(
            self.rotate(q), self.rotate(k), v, is_causal=True
        )
        return self.output(y.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, dim, hidden_dim):
        super().__init__()
        self.gate = nn.Linear(dim, hidden_dim, bias=False)
        self.value = nn.Linear(dim, hidden_dim, bias=False)
        self.output_projection = nn.Linear(hidden_dim, dim, bias=False)

    def forward(self, x):
        return self.output_projection(F.silu(self.gate(x)) * self.value(x))


class Block(nn.Module):
    """Attention and SwiGLU, each with a norm before and dropout behind."""

    def __init__(self, dim, num_heads, hidden_dim, dropout, length):
        super().__init__()
        self.mixer_norm = nn.RMSNorm(dim, eps=1e-6)
        self.mixer = Attention(dim, num_heads, length)
        self.feedforward_norm = nn.RMSNorm(dim, eps=1e-6)
        self.feedforward = FeedForward(dim, hidden_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        x = x + self.dropout(self.mixer(self.mixer_norm(x)))
        return x + self.dropout(self.feedforward(self.feedforward_norm(x)))


class LanguageModel(nn.Module):
    """Tokens and targets, `(B, length)`, to the mean cross-entropy."""

    def __init__(
        self,
        vocabulary_size,
        dim,
        num_layers,
        num_heads,
        hidden_dim,
        length,
        dropout=0.1,
        head="naive",
    ):
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary_size, dim)
        self.blocks = nn.ModuleList(
            Block(dim, num_heads, hidden_dim, dropout, length)
            for _ in range(num_layers)
        )
        self.final_norm = nn.RMSNorm(dim, eps=1e-6)
        self.dropout = nn.Dropout(dropout)
        self.bias = nn.Parameter(torch.zeros(vocabulary_size))
        self.head = head

    def forward(self, tokens, targets):
        h = self.dropout(self.token_embedding(tokens))
        for block in self.blocks:
            h = block(h)
        h = self.dropout(self.final_norm(h)).flatten(0, 1)
        weight = self.token_embedding.weight
        return crossentropy(self.head, h, weight, self.bias, targets.flatten())


def keras_weights(model):
    """Yield the Keras path of every weight and a view of it in that layout."""
    for name, parameter in model.named_parameters():
        array = parameter.data
        module, _, kind = name.rpartition(".")
        if kind == "bias":
            module = "head"
        elif module.endswith("norm"):
            kind = "scale"
        elif module.endswith("embedding"):
            kind = "embeddings"
        else:
            kind, array = "kernel", array.t()
        path = f"{module}/{kind}".replace("blocks.", "block_")
        yield path.replace(".", "/"), array


def optimizer(model, learning_rate=1e-3, weight_decay=0.01):
    """PyTorch's fused AdamW; biases and norm scales do not decay."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=learning_rate,
        betas=BETAS,
        eps=EPSILON,
        fused=True,
    )


def train_step(model, optimizer, step, tokens, targets, clip_norm=0.5):
    """One step on int64 tensors `(B, length)`; the loss as a float.

    Keras adds epsilon to the root of the raw second moment, PyTorch to that of
    the corrected one: `eps / sqrt(1 - beta_2^step)`, `step` from 1, makes the
    two one.
    """
    epsilon = EPSILON / math.sqrt(1 - BETAS[1] ** step)
    for group in optimizer.param_groups:
        if "betas" in group:
            group["eps"] = epsilon
    optimizer.zero_grad(set_to_none=True)
    loss = model(tokens, targets)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimizer.step()
    return loss.item()
