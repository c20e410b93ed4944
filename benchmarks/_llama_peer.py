"""An `EarlyExitLM` as the Llama of transformers, weight for weight.

The same block: RMSNorm, rotary attention, SwiGLU, no biases inside. What Llama
lacks is added from outside: a bias of the head, and the norm of the exit, which
its drafts by an exit (`assistant_early_exit`) would take from the last one.
"""

import numpy as np
import torch
from torch import nn


class ExitNorm(nn.Module):
    """RMSNorm with the scale of the exit that the network now ends at.

    For drafts transformers shortens the network by `config.num_hidden_layers`.
    """

    def __init__(self, scales, depths, config):
        super().__init__()
        self.config, self.depths = config, depths
        self.scales = nn.ParameterList(map(nn.Parameter, scales))

    def forward(self, hidden):
        exit = self.depths.index(self.config.num_hidden_layers)
        scale = self.scales[exit]
        variance = hidden.pow(2).mean(-1, keepdim=True)
        return hidden * torch.rsqrt(variance + 1e-6) * scale


def llama(model):
    """The peer, a `LlamaForCausalLM` in evaluation mode.

    Args:
        model: a built `EarlyExitLM`, its head tied or shared, on PyTorch or
            any other backend.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    heads = model.num_key_value_heads or model.num_heads
    width = model.dim // model.num_heads
    config = LlamaConfig(
        vocab_size=model.vocabulary_size,
        hidden_size=model.dim,
        intermediate_size=model.hidden_dim or 4 * model.dim,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_heads,
        num_key_value_heads=heads,
        head_dim=width,
        rms_norm_eps=1e-6,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    peer = LlamaForCausalLM(config).eval()
    state = {"model.embed_tokens.weight": model.token_embedding.embeddings}
    for index, layer in enumerate(model.decoder_layers):
        name = f"model.layers.{index}"
        joint = tensor(layer.mixer.query_key_value.kernel).T
        parts = joint.split([model.dim, heads * width, heads * width])
        for part, letter in zip(parts, "qkv", strict=True):
            state[f"{name}.self_attn.{letter}_proj.weight"] = part
        for theirs, ours in (
            ("self_attn.o_proj", layer.mixer.output_projection),
            ("mlp.gate_proj", layer.feedforward.gate),
            ("mlp.up_proj", layer.feedforward.value),
            ("mlp.down_proj", layer.feedforward.output_projection),
        ):
            state[f"{name}.{theirs}.weight"] = tensor(ours.kernel).T
        for theirs, ours in (
            ("input_layernorm", layer.mixer_norm),
            ("post_attention_layernorm", layer.feedforward_norm),
        ):
            state[f"{name}.{theirs}.weight"] = ours.scale
    missing = peer.load_state_dict(
        {key: tensor(value).contiguous() for key, value in state.items()},
        strict=False,
    )
    assert not missing.unexpected_keys, missing.unexpected_keys
    peer.model.norm = ExitNorm(
        [tensor(norm.scale) for norm in model.exit_norms],
        list(model.exit_depths),
        config,
    )
    peer.lm_head = nn.Linear(model.dim, model.vocabulary_size)
    with torch.no_grad():
        projection = model.heads[0].projection
        peer.lm_head.weight.copy_(
            tensor(model.token_embedding.embeddings)
            if projection is None
            else tensor(projection.kernel).T
        )
        peer.lm_head.bias.copy_(tensor(model.heads[0].bias))
    return peer


def tensor(value):
    from keras import ops

    return torch.tensor(np.array(ops.convert_to_numpy(value)))
