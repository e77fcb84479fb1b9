"""Causal language models as the text tower of a Mixture-of-Transformers: Llama, SmolLM, Mistral, Qwen2, Qwen3, Gemma.

Each further modality is given a tower beside it, begun as a copy of the text's or afresh (LMFusion, arXiv 2412.15188).
`mot_gen.families.language_models` does this in Python.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mot_gen.errors import InputError, nearest
from mot_gen.families.shared.conversion import ConvertedPart, PublishedFolder, assemble, outline
from mot_gen.families.shared.random_weights import TINY_TOWER, byte_tokenizer, write_tiny
from mot_gen.families.shared.table import Entry, FirstRows, MeanOfRows
from mot_gen.families.shared.towers import KINDS, Kind, backbone_options, published_text, tower
from mot_gen.families.shared.transformers_folders import model_type
from mot_gen.model import MultimodalConfig, MultimodalModel
from mot_gen.pipelines.base import MultimodalPipeline
from mot_gen.tokenizers.text import TextTokenizer

LICENCE = "that of the language model; see its own page"
LOOKS_FOR = f"a config.json whose model_type is one of {', '.join(KINDS)}"
STARTS = ("copy", "fresh")


# ---------------------------------------------------------------- what every family has


def recognises(folder: Path) -> bool:
    """Whether config.json is that of a language model of one of these kinds."""
    return model_type(folder) in KINDS


def parts(
    source: PublishedFolder,
    tokenizers: Mapping[str, Any] | None = None,
    start: str = "copy",
    text: TextTokenizer | None = None,
) -> list[ConvertedPart]:
    """The model alone: a tower for text, and one for each of the tokenizers, by modality."""
    if start not in STARTS:
        raise InputError(f"start: {start!r} is not known{nearest(start, STARTS)}")
    config = language_config(source.folder)
    kind = Kind.of(config)
    text = text or text_tokenizer(source.folder, config)
    modalities = [text.modality, *(tokenizer.modality for tokenizer in (tokenizers or {}).values())]
    options = backbone_options(config, kind, _frequencies(config, source.folder))
    stated = MultimodalConfig(modalities, {"kind": "mot", **options}, context=_context(config))
    stated.embedding_scale = kind.embedding_scale
    model = outline(MultimodalModel, stated.to_dict())
    return [ConvertedPart("model", model, table(model, config, kind, start))]


def pipeline(source: PublishedFolder, parts: Sequence[ConvertedPart], **tokenizers) -> MultimodalPipeline:
    """Over the model of `parts`. tokenizers: image_tokenizer and speech_tokenizer."""
    text = text_tokenizer(source.folder, language_config(source.folder))
    return assemble(parts, text, **tokenizers)


def parts_like(source: PublishedFolder, folder: Path) -> list[ConvertedPart]:
    """The model in a folder of ours, and the table that leads from it to the language model in `source`."""
    config = language_config(source.folder)
    model = outline(MultimodalModel, MultimodalModel.load_config(folder / "model"))
    kind = Kind.of(config)
    check_same(model, config, kind, source.folder)
    return [ConvertedPart("model", model, table(model, config, kind, "copy"))]


def tiny(folder: Path) -> None:
    """A Qwen2 of random weights with a tokenizer of bytes; its end of text lies inside the text's ids."""
    import transformers

    config = transformers.Qwen2Config(
        vocab_size=300,
        **TINY_TOWER,
        max_position_embeddings=64,
        bos_token_id=None,
        eos_token_id=0,
        tie_word_embeddings=False,
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    write_tiny(folder, model, byte_tokenizer(["<|endoftext|>"]))


# ---------------------------------------------------------------- table


def table(model: MultimodalModel, config, kind: Kind, start: str) -> list[Entry]:
    """Every tensor of the language model. Towers beyond the text's are copies where `start` says so."""
    entries = list(tower(model, kind, 0))
    if start == "copy":
        for number in range(1, len(model.backbone.towers)):
            entries += tower(model, kind, number, copy=True)
    return entries + list(_vocabulary(model, config))


def _vocabulary(model: MultimodalModel, config) -> Iterator[Entry]:
    """Embedding and head: the text's rows are the language model's, new ones begin at the mean of the text's."""
    _, known = model.vocabulary.range(model.modality_names[0])
    rest = model.vocabulary.size - known
    first = (FirstRows(known),) if known < config.vocab_size else ()
    tied = bool(config.tie_word_embeddings)
    head = "model.embed_tokens.weight" if tied else "lm_head.weight"
    # Of tied matrices the head leads back.
    yield Entry("embedding.weight", "model.embed_tokens.weight", first, (slice(0, known),), copy=tied)
    yield Entry("head.weight", head, first, (slice(0, known),))
    if rest:
        mean, place = MeanOfRows(known, rest), (slice(known, None),)
        yield Entry("embedding.weight", "model.embed_tokens.weight", (mean,), place, copy=True)
        yield Entry("head.weight", head, (mean,), place, copy=True)


# ---------------------------------------------------------------- what a language model is


def text_tokenizer(folder: str | Path, config) -> TextTokenizer:
    """Its tokenizer, which states the bounds of a document and the ids that no text has."""
    begin, end = _bounds(config)
    return published_text(folder, config.vocab_size, begin=begin, end=end)


def _bounds(config) -> tuple[int, int]:
    """The ids that begin and end a text; a model without a beginning (Qwen) begins after another text's end."""
    ends = config.eos_token_id
    end = ends[0] if isinstance(ends, list) else ends
    if end is None:
        raise InputError("config.json: eos_token_id is missing, so no text of this model ever ends; set it")
    begin = config.bos_token_id
    return (end if begin is None else begin), end


def language_config(folder: str | Path):
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
    """The frequencies of the rotary embedding, as transformers makes them from the config, scaled or not."""
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


def check_same(model: MultimodalModel, config, kind: Kind, like: str | Path) -> None:
    """InputError where the text tower is not of the language model's shape."""
    wanted = backbone_options(config, kind, model.backbone.config.rope_frequencies or [])
    ours = asdict(model.backbone.config)
    for name, value in wanted.items():
        if ours[name] != value:
            raise InputError(f"{like}: its {name} is {value}, the model's {ours[name]}; give what it was made from")
