"""The tower of a Llama-like language model: Kind (what differs among them), its options, and its table of names.

`backbone_options` and `text_options` state the tower, `one_tower` a model that has no other, `tower` is the table.
`published_text` and `conversing_text` read the tokenizer, and `missing_ids` finds the rows without a token.

Differences of form, not of function: Hugging Face rotates the halves of a head and we its neighbouring pairs, so the
rows of q and k are permuted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mot_gen.errors import InputError, nearest
from mot_gen.families.shared.table import Entry, Permuted, Rows
from mot_gen.model import MultimodalConfig, MultimodalModel
from mot_gen.sequence import Modality
from mot_gen.tokenizers.text import TextTokenizer

KINDS = ("llama", "mistral", "qwen2", "qwen3", "gemma")  # SmolLM and SmolLM2 are of the kind llama
ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu"}  # their name -> ours


@dataclass(frozen=True)
class Kind:
    """What differs among language models, as their config says it."""

    qk_norm: bool | str = False
    qkv_bias: bool = False
    activation: str = "silu"
    norm_offset: float = 0.0  # what every norm adds to its weight
    embedding_scale: float = 1.0

    @classmethod
    def of(cls, config) -> Kind:
        """InputError where a kind or a setting is not supported."""
        kind = config.model_type
        if kind not in KINDS:
            raise InputError(f"model_type {kind!r} is not supported{nearest(kind, KINDS)}; it must be one of these")
        for field in ("attention_bias", "mlp_bias"):
            if getattr(config, field, False):
                raise InputError(f"{kind}: {field} is not supported; give a model without")
        gemma = kind == "gemma"
        # Gemma's first configs say "gelu" where its weights were trained with the approximation by tanh.
        activation = "gelu_pytorch_tanh" if gemma else config.hidden_act
        if activation not in ACTIVATIONS:
            raise InputError(f"{kind}: hidden_act {activation!r} is not supported{nearest(activation, ACTIVATIONS)}")
        return cls(
            qk_norm=kind == "qwen3",
            qkv_bias=kind == "qwen2",
            activation=ACTIVATIONS[activation],
            norm_offset=1.0 if gemma else 0.0,
            embedding_scale=config.hidden_size**0.5 if gemma else 1.0,
        )


def backbone_options(config, kind: Kind, frequencies: Sequence[float]) -> dict[str, Any]:
    """The transformer of a language model's config, as a recipe's `backbone` section states it."""
    return {
        "dim": config.hidden_size,
        "layers": config.num_hidden_layers,
        "heads": config.num_attention_heads,
        "kv_heads": config.num_key_value_heads,
        "head_dim": getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        "ffn_dim": config.intermediate_size,
        "qk_norm": kind.qk_norm,
        "qkv_bias": kind.qkv_bias,
        "activation": kind.activation,
        "norm_eps": config.rms_norm_eps,
        "rope_frequencies": list(frequencies),
        **({"norm_offset": kind.norm_offset} if kind.norm_offset else {}),
    }


def text_options(config: Any, kind: Kind) -> dict[str, Any]:
    """`backbone_options` of a config of transformers whose rotary embedding is not scaled; InputError else."""
    rope = config.rope_parameters
    if rope.get("rope_type", "default") != "default":
        raise InputError(f"config.json: rope_type {rope['rope_type']!r} is not supported; it must be default")
    options = backbone_options(config, kind, [])
    del options["rope_frequencies"]
    return options | {"rope_theta": float(rope["rope_theta"])}


def one_tower(
    config: Any, kind: Kind, modalities: Sequence[Modality], backbone: Mapping[str, Any] | None = None, **more: Any
) -> MultimodalConfig:
    """A model whose one tower, a language model's, reads all modalities.

    config: of the language model, as transformers has it. backbone: options beyond the config's. more: further fields
    of `MultimodalConfig`."""
    tower_of_all = {"all": [modality.name for modality in modalities]}
    stated = {"kind": "mot", **text_options(config, kind), **(backbone or {}), "towers": tower_of_all}
    return MultimodalConfig(list(modalities), stated, context=config.max_position_embeddings, **more)


def conversing_text(folder: str | Path, config: Any, template: str) -> TextTokenizer:
    """`published_text`, bounded as a language model's config says, with a chat template."""
    text = published_text(folder, config.vocab_size, begin=config.bos_token_id, end=config.eos_token_id)
    return text.with_chat_template(template)


def published_text(folder: str | Path, size: int, **bounds: Any) -> TextTokenizer:
    """The tokenizer in `folder` over `size` ids, of which those that no token has are unused.

    bounds: begin and end, the ids around a document, and further fields of its modality, see `sequence.Modality`."""
    text = TextTokenizer.from_pretrained(folder, local_files_only=True)
    return text.with_layout(vocab_size=size, **bounds, unused=missing_ids(text, size))


def missing_ids(text: TextTokenizer, size: int) -> list[tuple[int, int]]:
    """[first, past the last] ranges of the ids below `size` that no text has."""
    held = sorted({id for id in text.get_vocab().values() if id < size})
    bounds = zip([-1, *held], [*held, size])
    return [(before + 1, after) for before, after in bounds if after > before + 1]


def pairs(heads: int, head_dim: int) -> Rows:
    """Rows of q or k in our order: of each head the pairs (i, i + K/2) of Hugging Face's halves, one after another."""
    one = torch.arange(head_dim).view(2, -1).t().flatten()
    order = torch.arange(heads)[:, None] * head_dim + one
    return Rows(tuple(order.flatten().tolist()))


@dataclass(frozen=True)
class Names:
    """How a tower's tensors are called: all begin with `prefix`, and a module's own name ends with `suffix`."""

    prefix: str = "model."
    suffix: str = ""
    attention: Mapping[str, str] | None = None  # q, k, v, out, q_norm, k_norm -> their names, which have no suffix

    def of_attention(self, number: int, module: str, leaf: str) -> str:
        """module: q, k, v, out, q_norm or k_norm."""
        if self.attention is None:
            return self.layer(number, f"self_attn.{ATTENTION[module]}", leaf)
        return f"{self.prefix}layers.{number}.self_attn.{self.attention[module]}.{leaf}"

    def layer(self, number: int, module: str, leaf: str) -> str:
        """A tensor of a module of layer `number`. leaf: weight or bias."""
        return f"{self.prefix}layers.{number}.{module}{self.suffix}.{leaf}"

    def feed_forward(self, number: int, module: str) -> str:
        """The weight of a projection of layer `number`'s feed-forward."""
        return f"{self.prefix}layers.{number}.mlp{self.suffix}.{module}.weight"


LANGUAGE_MODEL = Names()
ATTENTION = {"out": "o_proj", "q_norm": "q_norm", "k_norm": "k_norm"} | {name: f"{name}_proj" for name in "qkv"}


def tower(
    model: MultimodalModel, kind: Kind, number: int, names: Names = LANGUAGE_MODEL, copy: bool = False
) -> Iterator[Entry]:
    """The entries of one tower of the backbone."""
    for layer in range(model.backbone.config.layers):
        attention = _attention(model, kind, number, layer, names)
        feed_forward = _feed_forward(model, number, layer, names)
        for entry in (*attention, *feed_forward):
            yield replace(entry, copy=copy)
    theirs = f"{names.prefix}norm{names.suffix}.weight"
    yield Entry("backbone.final_norm.weight", theirs, (), (number,), copy)


def _attention(model: MultimodalModel, kind: Kind, number: int, layer: int, names: Names) -> Iterator[Entry]:
    yield from _qkv(model, kind, number, layer, names)
    if kind.qk_norm == "layer":
        yield from _layer_norms_of_heads(model, number, layer, names)
    elif kind.qk_norm:
        yield from _norms_of_heads(model, number, layer, names)
    ours = f"backbone.blocks.{layer}.out.weight"
    yield Entry(ours, names.of_attention(layer, "out", "weight"), (), (number,))


def _qkv(model: MultimodalModel, kind: Kind, number: int, layer: int, names: Names) -> Iterator[Entry]:
    """Queries, keys and values, which are rows of one matrix of ours."""
    c = model.backbone.config
    rows, kv_rows = c.heads * c.head_dim, c.kv_heads * c.head_dim
    places = {
        "q": (number, slice(0, rows)),
        "k": (number, slice(rows, rows + kv_rows)),
        "v": (number, slice(rows + kv_rows, rows + 2 * kv_rows)),
    }
    orders = {"q": [pairs(c.heads, c.head_dim)], "k": [pairs(c.kv_heads, c.head_dim)], "v": []}
    leaves = ("weight", "bias") if kind.qkv_bias else ("weight",)
    for leaf in leaves:
        for name, place in places.items():
            theirs = names.of_attention(layer, name, leaf)
            yield Entry(f"backbone.blocks.{layer}.qkv.{leaf}", theirs, orders[name], place)


def _layer_norms_of_heads(model: MultimodalModel, number: int, layer: int, names: Names) -> Iterator[Entry]:
    """Layer norms of queries and keys, with weights and biases of each head."""
    c = model.backbone.config
    for name, heads in (("q_norm", c.heads), ("k_norm", c.kv_heads)):
        shape = (heads, c.head_dim)
        swapped = Permuted((heads, 2, c.head_dim // 2), (0, 2, 1), shape, shape)
        for leaf in ("weight", "bias"):
            ours = f"backbone.blocks.{layer}.{name}.{leaf}"
            yield Entry(ours, names.of_attention(layer, name, leaf), (swapped,), (number,))


def _norms_of_heads(model: MultimodalModel, number: int, layer: int, names: Names) -> Iterator[Entry]:
    """Norms of queries and keys, whose weights all heads share."""
    one_head = pairs(1, model.backbone.config.head_dim)
    for name in ("q_norm", "k_norm"):
        ours = f"backbone.blocks.{layer}.{name}.weight"
        yield Entry(ours, names.of_attention(layer, name, "weight"), (one_head,), (number,))


def _feed_forward(model: MultimodalModel, number: int, layer: int, names: Names) -> Iterator[Entry]:
    c, ours = model.backbone.config, f"backbone.blocks.{layer}"
    gate, up = (number, slice(0, c.ffn_dim)), (number, slice(c.ffn_dim, None))
    yield Entry(f"{ours}.ffn.gate_up.weight", names.feed_forward(layer, "gate_proj"), (), gate)
    yield Entry(f"{ours}.ffn.gate_up.weight", names.feed_forward(layer, "up_proj"), (), up)
    yield Entry(f"{ours}.ffn.down.weight", names.feed_forward(layer, "down_proj"), (), (number,))
    for own, theirs in (("attention_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm")):
        yield Entry(f"{ours}.{own}.weight", names.layer(layer, theirs, "weight"), (), (number,))
