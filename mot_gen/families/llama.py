"""Causal language models as the text tower of a Mixture-of-Transformers: Llama, SmolLM, Mistral, Qwen2, Qwen3, Gemma.

- `from_language_model`: a language model -> a pipeline whose text logits are the model's, with one tower for each
  further modality, begun as a copy of the text's or afresh (LMFusion, arXiv 2412.15188).
- `to_language_model`: the text tower of a pipeline -> the language model it was made from, with these weights.
- `save`: the pipeline's folder, and beside it the recipe that trains it with its text tower frozen.

Differences of form, not of function: Hugging Face rotates the halves of a head and we its neighbouring pairs, so the
rows of q and k are permuted; Gemma's norms add 1 to their weight and its embedding is scaled, which the weights absorb.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from mot_gen.backbone import stated_options
from mot_gen.errors import InputError, nearest
from mot_gen.families.conversion import Part, Source, load, opened, outline
from mot_gen.families.table import Added, Entry, First, InMemory, MeanOfRows, Rows, Scaled, restored
from mot_gen.files.manifest import write as write_manifest
from mot_gen.model import MultimodalConfig, MultimodalModel
from mot_gen.pipelines.base import MultimodalPipeline
from mot_gen.tokenizers.text import TextTokenizer

LICENCE = "that of the language model; see its own page"
KINDS = ("llama", "mistral", "qwen2", "qwen3", "gemma")  # SmolLM and SmolLM2 are of the kind llama
LOOKS_FOR = f"a config.json whose model_type is one of {', '.join(KINDS)}"
STARTS = ("copy", "fresh")
ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu"}  # their name -> ours


@dataclass(frozen=True)
class Kind:
    """What differs among language models, as their config says it."""

    qk_norm: bool
    qkv_bias: bool
    activation: str
    norm_offset: float  # added to the weight of every norm
    embedding_scale: float

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
    }


# ---------------------------------------------------------------- what every family has


def recognises(folder: Path) -> bool:
    """Whether config.json is that of a language model of one of these kinds."""
    config = folder / "config.json"
    return config.is_file() and Source(folder).config().get("model_type") in KINDS


def parts(
    source: Source, tokenizers: Mapping[str, Any] | None = None, start: str = "copy", text: TextTokenizer | None = None
) -> list[Part]:
    """The model alone: a tower for text, and one for each of the tokenizers, by modality."""
    if start not in STARTS:
        raise InputError(f"start: {start!r} is not known{nearest(start, STARTS)}")
    config = _config(source.folder)
    kind = Kind.of(config)
    text = text or text_tokenizer(source.folder, config)
    modalities = [text.modality, *(tokenizer.modality for tokenizer in (tokenizers or {}).values())]
    options = backbone_options(config, kind, _frequencies(config, source.folder))
    stated = MultimodalConfig(modalities, {"kind": "mot", **options}, context=_context(config))
    model = outline(MultimodalModel, stated.to_dict())
    return [Part("model", model, table(model, config, kind, start))]


def pipeline(source: Source, parts: Sequence[Part], **tokenizers) -> MultimodalPipeline:
    """Over the model of `parts`. tokenizers: image_tokenizer and speech_tokenizer."""
    (part,) = parts
    model, text = part.outline, text_tokenizer(source.folder, _config(source.folder))
    assert isinstance(model, MultimodalModel)
    return MultimodalPipeline(model, text, scheduler=_scheduler(model), **tokenizers)


def parts_like(source: Source, folder: Path) -> list[Part]:
    """The model in a folder of ours, and the table that leads from it to the language model in `source`."""
    config = _config(source.folder)
    model = outline(MultimodalModel, MultimodalModel.load_config(folder / "model"))
    kind = Kind.of(config)
    _check_same(model, config, kind, source.folder)
    return [Part("model", model, table(model, config, kind, "copy"))]


def tiny(folder: Path) -> None:
    """A Qwen2 of random weights with a tokenizer of bytes; its end of text lies inside the text's ids."""
    import transformers

    config = transformers.Qwen2Config(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=None,
        eos_token_id=0,
        tie_word_embeddings=False,
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    byte_tokenizer(["<|endoftext|>"]).save_pretrained(folder)


def byte_tokenizer(first: Sequence[str]):
    """Tokens of these names, then the 256 bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = [*first, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    bpe = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, []))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bpe.add_special_tokens(list(first))
    return PreTrainedTokenizerFast(tokenizer_object=bpe)


# ---------------------------------------------------------------- table


def pairs(heads: int, head_dim: int) -> Rows:
    """Rows of q or k in our order: of each head the pairs (i, i + K/2) of Hugging Face's halves, one after another."""
    one = torch.arange(head_dim).view(2, -1).t().flatten()
    order = torch.arange(heads)[:, None] * head_dim + one
    return Rows(tuple(order.flatten().tolist()))


def table(model: MultimodalModel, config, kind: Kind, start: str) -> list[Entry]:
    """Every tensor of the language model. Towers beyond the text's are copies where `start` says so."""
    entries = list(tower(model, kind, 0))
    for number in range(1, len(model.backbone.towers) if start == "copy" else 1):
        entries += tower(model, kind, number, copy=True)
    return entries + list(_vocabulary(model, config, kind))


@dataclass(frozen=True)
class Names:
    """How a tower's tensors are called: all begin with `prefix`, and a module's own name ends with `suffix`."""

    prefix: str = "model."
    suffix: str = ""

    def layer(self, number: int, module: str, leaf: str) -> str:
        return f"{self.prefix}layers.{number}.{module}{self.suffix}.{leaf}"

    def feed_forward(self, number: int, module: str) -> str:
        return f"{self.prefix}layers.{number}.mlp{self.suffix}.{module}.weight"


LANGUAGE_MODEL = Names()


def tower(
    model: MultimodalModel, kind: Kind, number: int, names: Names = LANGUAGE_MODEL, copy: bool = False
) -> Iterator[Entry]:
    """The entries of one tower of the backbone."""
    for layer in range(model.backbone.config.layers):
        for entry in _attention(model, kind, number, layer, names):
            yield replace(entry, copy=copy)
        for entry in _feed_forward(model, kind, number, layer, names):
            yield replace(entry, copy=copy)
    theirs = f"{names.prefix}norm{names.suffix}.weight"
    yield Entry("backbone.final_norm.weight", theirs, _norm(kind), (number,), copy)


def _norm(kind: Kind) -> tuple[Added, ...]:
    return (Added(kind.norm_offset),) if kind.norm_offset else ()


def _attention(model: MultimodalModel, kind: Kind, number: int, layer: int, names: Names) -> Iterator[Entry]:
    c, ours = model.backbone.config, f"backbone.blocks.{layer}"
    widths = (c.heads * c.head_dim, c.kv_heads * c.head_dim, c.kv_heads * c.head_dim)
    orders = ((pairs(c.heads, c.head_dim),), (pairs(c.kv_heads, c.head_dim),), ())
    for leaf in ("weight", "bias") if kind.qkv_bias else ("weight",):
        first = 0
        for name, width, order in zip("qkv", widths, orders):
            place = (number, slice(first, first + width))
            theirs = names.layer(layer, f"self_attn.{name}_proj", leaf)
            yield Entry(f"{ours}.qkv.{leaf}", theirs, order, place)
            first += width
    if kind.qk_norm:
        one = (pairs(1, c.head_dim), *_norm(kind))
        for name in ("q_norm", "k_norm"):
            theirs = names.layer(layer, f"self_attn.{name}", "weight")
            yield Entry(f"{ours}.{name}.weight", theirs, one, (number,))
    yield Entry(f"{ours}.out.weight", names.layer(layer, "self_attn.o_proj", "weight"), (), (number,))


def _feed_forward(model: MultimodalModel, kind: Kind, number: int, layer: int, names: Names) -> Iterator[Entry]:
    c, ours = model.backbone.config, f"backbone.blocks.{layer}"
    gate, up = (number, slice(0, c.ffn_dim)), (number, slice(c.ffn_dim, None))
    yield Entry(f"{ours}.ffn.gate_up.weight", names.feed_forward(layer, "gate_proj"), (), gate)
    yield Entry(f"{ours}.ffn.gate_up.weight", names.feed_forward(layer, "up_proj"), (), up)
    yield Entry(f"{ours}.ffn.down.weight", names.feed_forward(layer, "down_proj"), (), (number,))
    for own, theirs in (("attention_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm")):
        yield Entry(f"{ours}.{own}.weight", names.layer(layer, theirs, "weight"), _norm(kind), (number,))


def _vocabulary(model: MultimodalModel, config, kind: Kind) -> Iterator[Entry]:
    """Embedding and head: the text's rows are the language model's, new ones begin at the mean of the text's."""
    _, known = model.vocabulary.range(model.modality_names[0])
    rest = model.vocabulary.size - known
    first = (First(known),) if known < config.vocab_size else ()
    scale = (Scaled(kind.embedding_scale),) if kind.embedding_scale != 1 else ()
    tied = bool(config.tie_word_embeddings)
    head = "model.embed_tokens.weight" if tied else "lm_head.weight"
    # Of tied matrices the head leads back: it is the one that is not scaled.
    yield Entry("embedding.weight", "model.embed_tokens.weight", (*first, *scale), (slice(0, known),), copy=tied)
    yield Entry("head.weight", head, first, (slice(0, known),))
    if rest:
        mean, place = MeanOfRows(known, rest), (slice(known, None),)
        yield Entry("embedding.weight", "model.embed_tokens.weight", (mean, *scale), place, copy=True)
        yield Entry("head.weight", head, (mean,), place, copy=True)


# ---------------------------------------------------------------- what a language model is


def text_tokenizer(folder: str | Path, config, local_files_only: bool = True) -> TextTokenizer:
    """Its tokenizer, which states the bounds of a document and the ids that no text has."""
    text = TextTokenizer.from_pretrained(folder, local_files_only=local_files_only)
    begin, end = _bounds(config)
    unused = missing_ids(text, config.vocab_size)
    return text.with_layout(vocab_size=config.vocab_size, begin=begin, end=end, unused=unused)


def missing_ids(text: TextTokenizer, size: int) -> list[tuple[int, int]]:
    """[first, past the last] ranges of the ids below `size` that no text has."""
    held = {*text.get_vocab().values()}
    ranges: list[tuple[int, int]] = []
    for id in range(size):
        if id in held:
            continue
        if ranges and ranges[-1][1] == id:
            ranges[-1] = (ranges[-1][0], id + 1)
        else:
            ranges.append((id, id + 1))
    return ranges


def _bounds(config) -> tuple[int, int]:
    """The ids that begin and end a text; a model without a beginning (Qwen) begins after another text's end."""
    ends = config.eos_token_id
    end = ends[0] if isinstance(ends, list) else ends
    if end is None:
        raise InputError("config.json: eos_token_id is missing, so no text of this model ever ends; set it")
    begin = config.bos_token_id
    return (end if begin is None else begin), end


def _config(folder: str | Path):
    """The language model's config; InputError for what is no language model of these kinds."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        Kind.of(config)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: no language model that can be loaded: {str(error).splitlines()[0]}") from error
    return config


def _frequencies(config, folder: str | Path) -> list[float]:
    """Of the rotary embedding, as transformers makes it of the config, scaled or not."""
    from transformers import AutoConfig, AutoModelForCausalLM

    small = {"num_hidden_layers": 0, "vocab_size": 1, "pad_token_id": None, "layer_types": None}
    empty = AutoConfig.for_model(**{**config.to_dict(), **small})
    rotary = AutoModelForCausalLM.from_config(empty).model.rotary_emb
    if rotary.attention_scaling != 1:
        scaling = rotary.attention_scaling
        raise InputError(f"{folder}: its rotary embedding scales the attention by {scaling}, which is not supported")
    return rotary.inv_freq.tolist()


def _context(config) -> int:
    """The longest text on which the model is the same as ours: we have no sliding window."""
    windows = [config.max_position_embeddings]
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        windows.append(config.sliding_window)
    return min(windows)


def _scheduler(model: MultimodalModel):
    continuous = [m.name for m in model.modalities if not m.discrete]
    return model.objectives[continuous[0]].scheduler() if continuous else None


# ---------------------------------------------------------------- in Python


def local_folder(name: str | Path, local_files_only: bool = True) -> Path:
    """The folder itself, or where the files of a hub name are. Only safetensors: a pickle may execute code."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.txt", "*.model"]
    try:
        return Path(snapshot_download(str(name), local_files_only=local_files_only, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: no folder, and not fetched: {str(error).splitlines()[0]}") from error


def from_language_model(
    folder: str | Path, tokenizers: Mapping[str, Any], start: str = "copy", local_files_only: bool = True
) -> MultimodalPipeline:
    """The language model in `folder` (or of that hub name) as the text tower of an MoT.

    tokenizers: one for each further modality, by name. start: whether its tower begins as a "copy" of the text's or
    "fresh". Embedding and head of the text are the model's; its begin and end of a text become the bounds of a
    document, and tokens that it does not know begin at the mean of those it knows.
    """
    with opened(local_folder(folder, local_files_only), None) as source:
        made = parts(source, tokenizers, start)
        return load(_Family(tokenizers), source, made)


class _Family:
    """This module, with the tokenizers of further modalities."""

    def __init__(self, tokenizers: Mapping[str, Any]):
        self.LICENCE, self.__name__, self._tokenizers = LICENCE, __name__, components(tokenizers)

    def pipeline(self, source: Source, parts: Sequence[Part]) -> MultimodalPipeline:
        return pipeline(source, parts, **self._tokenizers)

    @staticmethod
    def recipe(pipeline: MultimodalPipeline, out: Path) -> str:
        return recipe(pipeline, out)


def with_tokenizers(tokenizers: Mapping[str, Any]) -> Any:
    """This family, whose pipelines have these tokenizers of further modalities."""
    return _Family(tokenizers)


def components(tokenizers: Mapping[str, Any]) -> dict[str, Any]:
    """{"image": tokenizer} -> {"image_tokenizer": tokenizer}; InputError for a modality that no pipeline has."""
    for name in tokenizers:
        if name not in ("image", "speech"):
            raise InputError(f"towers: {name!r} has no place in a pipeline; further towers are image and speech")
    return {f"{name}_tokenizer": tokenizer for name, tokenizer in tokenizers.items()}


def _check_same(model: MultimodalModel, config, kind: Kind, like: str | Path) -> None:
    """InputError where the text tower is not of the language model's shape."""
    wanted = backbone_options(config, kind, model.backbone.config.rope_frequencies or [])
    ours = asdict(model.backbone.config)
    for name, value in wanted.items():
        if ours[name] != value:
            raise InputError(f"{like}: its {name} is {value}, the model's {ours[name]}; give what it was made from")


@torch.no_grad()
def to_language_model(pipeline: MultimodalPipeline, like: str | Path, local_files_only: bool = True):
    """The text tower as a transformers model: `like`, the model it was made from, with the pipeline's weights."""
    from transformers import AutoModelForCausalLM

    folder = local_folder(like, local_files_only)
    config = _config(folder)
    kind = Kind.of(config)
    model = pipeline.model
    _check_same(model, config, kind, like)
    with opened(folder, None) as source:
        target = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", use_safetensors=True).eval()
        ours = InMemory(model.state_dict())
        weights = dict(restored(table(model, config, kind, "copy"), ours, source.weights, str(like)))
    missing, foreign = target.load_state_dict(weights, strict=False)
    assert not foreign
    assert set(missing) <= {"lm_head.weight"}  # of a tied head
    return target


# ---------------------------------------------------------------- folders


def save(pipeline: MultimodalPipeline, out: str | Path) -> None:
    """The pipeline's folder with `recipe.yaml`, which goes on training it with its text tower frozen."""
    out = Path(out)
    pipeline.save_pretrained(out)
    (out / "recipe.yaml").write_text(recipe(pipeline, out), encoding="utf-8")
    write_manifest(out)


def recipe(pipeline: MultimodalPipeline, out: Path) -> str:
    """A recipe that trains the other towers of the pipeline's folder `out`, and leaves the language model as it is."""
    model = pipeline.model
    backbone = stated_options(model.config.backbone) | {"frozen": [model.modality_names[0]]}
    tokenizers = {}
    for modality in model.modalities:
        tokenizer = getattr(pipeline, f"{modality.name}_tokenizer")
        kind = type(tokenizer).__module__.rsplit(".", 1)[-1]
        tokenizers[modality.name] = {"kind": kind, "path": str(out.resolve() / f"{modality.name}_tokenizer")}
    stated = {
        "name": out.name,
        "data": {"records": ["pairs.jsonl"]},
        "tokenizers": tokenizers,
        "backbone": backbone,
        "objectives": {m.name: {"kind": m.objective} for m in model.modalities},
        "training": {"init": str(out.resolve()), "row_length": min(512, model.config.context or 512)},
    }
    heading = "# Trains the other towers beside the language model's, which stays as it is. Set data.records.\n"
    return heading + yaml.safe_dump(stated, sort_keys=False, width=120)
