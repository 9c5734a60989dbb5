"""Models of other libraries that are equal to ours: the same shape, and where it can be, the same weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mathllm.config import Config, build_config
from mathllm.model.norms import EPSILON
from mathllm.model.transformer import Transformer
from mathllm.tokenizer import END, VOCAB_SIZE


def our_config(size: str = "small", max_length: int = 64, **data: Any) -> Config:
    """Our settings as a Llama has them: SwiGLU, no QK-norm, AdamW."""
    model = {"size": size, "max_length": max_length, "activation": "swiglu", "qk_norm": False}
    train = {"batch_size": 128, "output_dir": "unused", "wandb": "off"}
    return build_config({"model": model, "data": data, "optim": {"optimizer": "adamw"}, "train": train})


def llama(ours: Transformer, config: Config) -> nn.Module:
    """A LlamaForCausalLM with our weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = config.model
    peer = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=shape.hidden,
            intermediate_size=shape.feed_forward,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads or shape.heads,
            max_position_embeddings=shape.max_length,
            rms_norm_eps=EPSILON,
            tie_word_embeddings=False,
            pad_token_id=END,
            bos_token_id=None,
            eos_token_id=None,
            attn_implementation="sdpa",
        )
    )
    peer.load_state_dict(llama_weights(ours, shape.heads))
    return peer


def llama_weights(ours: Transformer, heads: int) -> dict[str, Tensor]:
    """Our weights by Llama's names. Llama turns the first half of a head against the second, we turn neighbours."""
    state = {name: tensor.detach().clone() for name, tensor in ours.state_dict().items()}
    weights = {
        "model.embed_tokens.weight": state["embedding.weight"],
        "model.norm.weight": state["final_norm.weight"],
        "lm_head.weight": state["head.weight"],
    }
    for layer in range(len(ours.blocks)):
        own, theirs = f"blocks.{layer}.", f"model.layers.{layer}."
        q, k, v = state[own + "attention.qkv.weight"].chunk(3)
        for name, tensor in (("q", halved(q, heads)), ("k", halved(k, heads)), ("v", v)):
            weights[f"{theirs}self_attn.{name}_proj.weight"] = tensor
        for name, other in (
            ("attention.out", "self_attn.o_proj"),
            ("feed_forward.gate", "mlp.gate_proj"),
            ("feed_forward.up", "mlp.up_proj"),
            ("feed_forward.down", "mlp.down_proj"),
            ("attention_norm", "input_layernorm"),
            ("feed_forward_norm", "post_attention_layernorm"),
        ):
            weights[f"{theirs}{other}.weight"] = state[f"{own}{name}.weight"]
    return weights


def halved(weight: Tensor, heads: int) -> Tensor:
    """Rows (H D, C) of each head in the order even, odd instead of pair by pair."""
    rows, width = weight.shape
    return weight.view(heads, rows // heads // 2, 2, width).transpose(1, 2).reshape(rows, width)


def x_transformer(config: Config) -> nn.Module:
    """x-transformers' decoder of the same shape."""
    from x_transformers import Decoder, TransformerWrapper

    shape = config.model
    return TransformerWrapper(
        num_tokens=VOCAB_SIZE,
        max_seq_len=shape.max_length,
        use_abs_pos_emb=False,
        attn_layers=Decoder(
            dim=shape.hidden,
            depth=shape.layers,
            heads=shape.heads,
            attn_dim_head=shape.hidden // shape.heads,
            attn_flash=True,
            rotary_pos_emb=True,
            use_rmsnorm=True,
            ff_swish=True,
            ff_glu=True,
            ff_mult=shape.feed_forward / shape.hidden,
            ff_no_bias=True,
        ),
    )


def padded(rows: list[dict[str, list[int]]]) -> dict[str, Tensor]:
    """What a data collator makes of rows: padded to the longest of the batch, the padding masked."""
    width = max(len(row["input_ids"]) for row in rows)
    fill = {"input_ids": END, "labels": -100, "attention_mask": 0}
    return {
        name: torch.tensor([row[name] + [value] * (width - len(row[name])) for row in rows])
        for name, value in fill.items()
    }
