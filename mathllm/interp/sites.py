"""The names of all that can be seen and edited inside a model, and the shapes of what is there.

Names are those of TransformerLens' HookedTransformer; with `loops`, blocks are counted through all repetitions. Two are
ours: `hook_pos_embed` is whatever a position scheme adds to the embeddings, and `attn.hook_bias` what it adds to the
scores."""

from __future__ import annotations

# sites of a block in the order in which they come, and the axes of what is there: B rows, T tokens (as queries), S
# tokens (as keys), H heads, K heads of keys and values, D channels of a head, C of the residual stream, F neurons
BLOCK = {
    "hook_resid_pre": "BTC",
    "ln1.hook_scale": "BT1",
    "ln1.hook_normalized": "BTC",
    "attn.hook_q": "BTHD",
    "attn.hook_k": "BTKD",
    "attn.hook_v": "BTKD",
    "attn.hook_rot_q": "BTHD",  # after QK-norm and rotation
    "attn.hook_rot_k": "BTKD",
    "attn.hook_bias": "BHTS",
    "attn.hook_attn_scores": "BHTS",
    "attn.hook_pattern": "BHTS",
    "attn.hook_z": "BTHD",
    "attn.hook_result": "BTHC",
    "hook_attn_out": "BTC",
    "hook_resid_mid": "BTC",
    "ln2.hook_scale": "BT1",
    "ln2.hook_normalized": "BTC",
    "mlp.hook_pre": "BTF",
    "mlp.hook_pre_linear": "BTF",
    "mlp.hook_post": "BTF",
    "hook_mlp_out": "BTC",
    "hook_resid_post": "BTC",
}
BEFORE = {"hook_embed": "BTC", "hook_pos_embed": "BTC"}
AFTER = {"ln_final.hook_scale": "BT1", "ln_final.hook_normalized": "BTC"}
ALL = BEFORE | BLOCK | AFTER
# what is worked out only for who asks for it
DEAR = "attn.hook_result"


def axes_of(name: str) -> str:
    """The axes of what a site holds, by its name in a model: `blocks.0.attn.hook_z` has `BTHD`."""
    return ALL[name.split(".", 2)[2] if name.startswith("blocks.") else name]


def short(name: str) -> str:
    """A site for people: `L0 resid_post` for `blocks.0.hook_resid_post`, `L1 neurons` for `blocks.1.mlp.hook_post`."""
    if not name.startswith("blocks."):
        return name.replace("hook_", "")
    _, layer, rest = name.split(".", 2)
    rest = (
        rest.replace("mlp.hook_post", "neurons").replace("attn.hook_z, head ", "head ").replace("hook_", "")
    )
    return f"L{layer} {rest}"
