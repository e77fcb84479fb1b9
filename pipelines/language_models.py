"""A causal language model of Hugging Face as the text tower of a Mixture-of-Transformers, and back.

- `from_language_model`: Llama, SmolLM, Mistral, Qwen2, Qwen3 or Gemma -> a pipeline whose text logits are the model's,
  with one tower for each further modality, begun as a copy of the text's or afresh (LMFusion, arXiv 2412.15188).
- `to_language_model`: the text tower of a pipeline -> the language model it was made from, with these weights.
- `save`: the pipeline's folder, and beside it the recipe that trains it with its text tower frozen.

Differences of form, not of function: Hugging Face rotates the halves of a head and we its neighbouring pairs, so the
rows of q and k are permuted; Gemma's norms add 1 to their weight and its embedding is scaled, which the weights absorb.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import yaml
from torch import Tensor

from mot_gen.errors import InputError, nearest
from mot_gen.files.manifest import write as write_manifest
from mot_gen.model import MultimodalConfig, MultimodalModel
from mot_gen.pipelines.base import MultimodalPipeline
from mot_gen.tokenizers.text import TextTokenizer

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma")  # SmolLM and SmolLM2 are of the family llama
STARTS = ("copy", "fresh")
ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu"}  # their name -> ours


@dataclass(frozen=True)
class Family:
    """What differs among language models, as their config says it."""

    qk_norm: bool
    qkv_bias: bool
    activation: str
    norm_offset: float  # added to the weight of every norm
    embedding_scale: float

    @classmethod
    def of(cls, config) -> Family:
        """InputError where a family or a setting is not supported."""
        kind = config.model_type
        if kind not in FAMILIES:
            raise InputError(f"model_type {kind!r} is not supported{nearest(kind, FAMILIES)}; it must be one of these")
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


def backbone_options(config, family: Family, frequencies: Sequence[float]) -> dict:
    """The transformer of a language model's config, as a recipe's `backbone` section states it."""
    return {
        "dim": config.hidden_size,
        "layers": config.num_hidden_layers,
        "heads": config.num_attention_heads,
        "kv_heads": config.num_key_value_heads,
        "head_dim": getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        "ffn_dim": config.intermediate_size,
        "qk_norm": family.qk_norm,
        "qkv_bias": family.qkv_bias,
        "activation": family.activation,
        "norm_eps": config.rms_norm_eps,
        "rope_frequencies": list(frequencies),
    }


def from_language_model(
    folder: str | Path, tokenizers: dict[str, object], start: str = "copy", local_files_only: bool = True
) -> MultimodalPipeline:
    """The language model in `folder` (or of that hub name) as the text tower of an MoT.

    tokenizers: one for each further modality, by name. start: whether its tower begins as a "copy" of the text's or
    "fresh". Embedding and head of the text are the model's; its begin and end of a text become the bounds of a
    document, and tokens that it does not know begin at the mean of those it knows.
    """
    if start not in STARTS:
        raise InputError(f"start: {start!r} is not known{nearest(start, STARTS)}")
    source = _load(folder, local_files_only)
    family = Family.of(source.config)
    frequencies, scaling = source.model.rotary_emb.inv_freq, source.model.rotary_emb.attention_scaling
    if scaling != 1:
        raise InputError(f"{folder}: its rotary embedding scales the attention by {scaling}, which is not supported")
    text = TextTokenizer.from_pretrained(folder, local_files_only=local_files_only)
    modalities = [text.modality, *(tokenizer.modality for tokenizer in tokenizers.values())]
    options = backbone_options(source.config, family, frequencies.tolist())
    config = MultimodalConfig(modalities, {"kind": "mot", **options}, context=_context(source.config))
    model = MultimodalModel(**config.to_dict())
    model = model if source.dtype == torch.float32 else model.to(source.dtype)
    _write_tower(model, source, family, start)
    _write_vocabulary(model, source, family)
    return MultimodalPipeline(model, text, scheduler=_scheduler(model), **_components(tokenizers))


def _scheduler(model: MultimodalModel):
    continuous = [m.name for m in model.modalities if not m.discrete]
    return model.objectives[continuous[0]].scheduler() if continuous else None


def _components(tokenizers: dict[str, object]) -> dict[str, object]:
    for name in tokenizers:
        if name not in ("image", "speech"):
            raise InputError(f"towers: {name!r} has no place in a pipeline; further towers are image and speech")
    return {f"{name}_tokenizer": tokenizer for name, tokenizer in tokenizers.items()}


def _load(folder: str | Path, local_files_only: bool):
    """The language model in its own precision. Only safetensors: a pickle may execute code."""
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        Family.of(AutoConfig.from_pretrained(folder, local_files_only=local_files_only))
        return AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=local_files_only, use_safetensors=True, dtype="auto"
        ).eval()
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None
    except (OSError, ValueError) as error:
        if any(Path(folder).glob("*.bin")):
            raise InputError(
                f"{folder}: its weights are pickled, and a pickle may execute code; where you trust it, load it with "
                "transformers and save it again: save_pretrained(folder) writes safetensors"
            ) from error
        raise InputError(f"{folder}: no language model that can be loaded: {str(error).splitlines()[0]}") from error


def _context(config) -> int:
    """The longest text on which the model is the same as ours: we have no sliding window."""
    windows = [config.max_position_embeddings]
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        windows.append(config.sliding_window)
    return min(windows)


# ---------------------------------------------------------------- weights


def _pairs(heads: int, head_dim: int) -> Tensor:
    """Rows of q or k in our order: of each head the pairs (i, i + K/2) of Hugging Face's halves, one after another."""
    one = torch.arange(head_dim).view(2, -1).t().flatten()
    return (torch.arange(heads)[:, None] * head_dim + one).flatten()


def _tower(model: MultimodalModel, family: Family, number: int = 0) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """(name in Hugging Face's model, our slice of tower `number`, the rows of Hugging Face's in our order or None)."""
    c, backbone = model.backbone.config, model.backbone
    query, key = (_pairs(heads, c.head_dim) for heads in (c.heads, c.kv_heads))
    widths = [c.heads * c.head_dim, c.kv_heads * c.head_dim, c.kv_heads * c.head_dim]
    for layer, block in enumerate(backbone.blocks):
        at = f"model.layers.{layer}"
        kinds = [("weight", block.qkv.weight)] + ([("bias", block.qkv.bias)] if family.qkv_bias else [])
        for kind, stacked in kinds:
            parts = stacked[number].split(widths)
            for name, part, rows in zip("qkv", parts, (query, key, None)):
                yield f"{at}.self_attn.{name}_proj.{kind}", part, rows
        if family.qk_norm:
            yield f"{at}.self_attn.q_norm.weight", block.q_norm.weight[number], _pairs(1, c.head_dim)
            yield f"{at}.self_attn.k_norm.weight", block.k_norm.weight[number], _pairs(1, c.head_dim)
        gate, up = block.ffn.gate_up.weight[number].chunk(2)
        yield f"{at}.self_attn.o_proj.weight", block.out.weight[number], None
        yield f"{at}.mlp.gate_proj.weight", gate, None
        yield f"{at}.mlp.up_proj.weight", up, None
        yield f"{at}.mlp.down_proj.weight", block.ffn.down.weight[number], None
        yield f"{at}.input_layernorm.weight", block.attention_norm.weight[number], None
        yield f"{at}.post_attention_layernorm.weight", block.ffn_norm.weight[number], None
    yield "model.norm.weight", backbone.final_norm.weight[number], None


@torch.no_grad()
def _write_tower(model: MultimodalModel, source, family: Family, start: str) -> None:
    weights = source.state_dict()
    for number in range(len(model.backbone.towers) if start == "copy" else 1):
        for name, ours, rows in _tower(model, family, number):
            theirs = weights[name] if rows is None else weights[name][rows]
            ours.copy_(theirs + family.norm_offset if name.endswith("norm.weight") else theirs)


@torch.no_grad()
def _write_vocabulary(model: MultimodalModel, source, family: Family) -> None:
    vocabulary = model.vocabulary
    bounds = _bounds(source)
    tables = (
        (model.embedding.weight, source.get_input_embeddings().weight * family.embedding_scale),
        (model.head.weight, source.get_output_embeddings().weight),
    )
    _, known = vocabulary.range(model.modality_names[0])
    for ours, theirs in tables:
        ours.copy_(theirs[:known].mean(0).expand_as(ours))
        ours[:known] = theirs[:known]
        ours[vocabulary.document_begin], ours[vocabulary.document_end] = theirs[bounds[0]], theirs[bounds[1]]


def _bounds(source) -> tuple[int, int]:
    """The ids that begin and end a text; a model without a beginning (Qwen) begins after another text's end."""
    ends = source.config.eos_token_id
    end = ends[0] if isinstance(ends, list) else ends
    begin = source.config.bos_token_id
    if end is None:
        raise InputError("config.json: eos_token_id is missing, so no text of this model ever ends; set it")
    return (end if begin is None else begin), end


# ---------------------------------------------------------------- back


@torch.no_grad()
def to_language_model(pipeline: MultimodalPipeline, like: str | Path, local_files_only: bool = True):
    """The text tower as a transformers model: `like`, the model it was made from, with the pipeline's weights."""
    target, model = _load(like, local_files_only), pipeline.model
    family = Family.of(target.config)
    options = backbone_options(target.config, family, model.backbone.config.rope_frequencies or [])
    ours = asdict(model.backbone.config)
    for name, wanted in options.items():
        if ours[name] != wanted:
            raise InputError(f"{like}: its {name} is {wanted}, the model's {ours[name]}; give what it was made from")
    weights = target.state_dict()
    for name, tower, rows in _tower(model, family):
        found = tower - family.norm_offset if name.endswith("norm.weight") else tower
        weights[name] = found.clone() if rows is None else found[torch.argsort(rows)]
    _, known = model.vocabulary.range(model.modality_names[0])
    tied = target.config.tie_word_embeddings
    weights["model.embed_tokens.weight"][:known] = model.embedding.weight[:known] / family.embedding_scale
    if not tied:
        weights["lm_head.weight"][:known] = model.head.weight[:known]
    elif not torch.equal(model.head.weight[:known] * family.embedding_scale, model.embedding.weight[:known]):
        raise InputError(f"{like}: has one matrix for embedding and head, which training made two; train it frozen")
    target.load_state_dict(weights)
    return target


# ---------------------------------------------------------------- folders, command


def save(pipeline: MultimodalPipeline, out: str | Path) -> None:
    """The pipeline's folder with `recipe.yaml`, which goes on training it with its text tower frozen."""
    out = Path(out)
    pipeline.save_pretrained(out)
    (out / "recipe.yaml").write_text(_recipe(pipeline, out), encoding="utf-8")
    write_manifest(out)


def _recipe(pipeline: MultimodalPipeline, out: Path) -> str:
    model = pipeline.model
    backbone = dict(model.config.backbone) | {"frozen": [model.modality_names[0]]}
    tokenizers = {}
    for modality in model.modalities:
        tokenizer = getattr(pipeline, f"{modality.name}_tokenizer")
        kind = type(tokenizer).__module__.rsplit(".", 1)[-1]
        tokenizers[modality.name] = {"kind": kind, "path": str(out.resolve() / f"{modality.name}_tokenizer")}
    recipe = {
        "name": out.name,
        "data": {"records": ["pairs.jsonl"]},
        "tokenizers": tokenizers,
        "backbone": backbone,
        "objectives": {m.name: {"kind": m.objective} for m in model.modalities},
        "training": {"init": str(out.resolve()), "row_length": min(512, model.config.context or 512)},
    }
    heading = "# Trains the other towers beside the language model's, which stays as it is. Set data.records.\n"
    return heading + yaml.safe_dump(recipe, sort_keys=False, width=120)
