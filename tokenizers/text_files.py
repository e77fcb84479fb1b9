"""The files of a byte-level BPE tokenizer, published or our own, read: read_text_files, TextFiles."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, pre_tokenizers
from transformers.utils import cached_file

from mot_gen.errors import InputError

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"
FINDS = ("subfolder", "revision", "cache_dir", "local_files_only", "token", "force_download", "proxies")


@dataclass(frozen=True)
class TextFiles:
    """What they hold.

    path: of `tokenizer.json`.
    backend: the tokenizer, whose every id is reached by text alone.
    config: the other settings.
    specials: the ids of its special tokens by name.
    template: of chat messages, None where there is none, or several.
    """

    path: str
    backend: Tokenizer
    config: dict[str, Any]
    specials: dict[str, int]
    template: str | None


def read_text_files(name: str, **kwargs) -> TextFiles:
    """name: a folder, a `tokenizer.json` or a hub name. kwargs: those of FINDS find the files, others are ignored.

    InputError where there is none, or where it is no byte-level BPE.
    """
    finding = {key: value for key, value in kwargs.items() if key in FINDS}
    path = _find(name, TOKENIZER_FILE, finding)
    if path is None:
        raise InputError(f"{name}: no {TOKENIZER_FILE} found in this folder or hub name")
    config_path = _find(name, CONFIG_FILE, finding)
    template_path = _find(name, TEMPLATE_FILE, finding)
    try:
        config = json.loads(_read(config_path)) if config_path else {}
        spec = json.loads(_read(path))
        backend = Tokenizer.from_str(json.dumps(_neutralised(spec, path)))
    except InputError:
        raise
    except Exception as error:  # the tokenizers library raises bare Exception for what it cannot read
        raise InputError(f"{path}: not a tokenizer that can be read ({error})") from error
    template = _read(template_path) if template_path else config.get("chat_template")
    if not isinstance(template, str):
        template = None
    return TextFiles(path, backend, config, _specials(spec), template)


def _read(path: str) -> str:
    return Path(path).read_text("utf-8")


def _specials(spec: dict) -> dict[str, int]:
    """The special tokens of a `tokenizer.json`."""
    added = spec.get("added_tokens") or []
    return {token["content"]: token["id"] for token in added if token.get("special")}


def _find(name: str, file: str, finding: dict[str, Any]) -> str | None:
    """The local path of a file in a folder, beside a named tokenizer.json, or (fetched) on the hub; None if absent."""
    if Path(name).is_file():
        beside = Path(name) if file == TOKENIZER_FILE else Path(name).with_name(file)
        return str(beside) if beside.is_file() else None
    try:
        return cached_file(name, file, _raise_exceptions_for_missing_entries=False, **finding)
    except (OSError, ValueError):
        return None


def _neutralised(spec: dict, file: str) -> dict:
    """A `tokenizer.json` whose every id is reached by text alone, and which changes no character of it.

    Added tokens leave the vocabulary too: with `ignore_merges` (Llama 3) a text that spells one would still reach it.
    """
    if spec.get("model", {}).get("type") != "BPE" or not _byte_level(spec.get("decoder")):
        raise InputError(f"{file}: not a byte-level BPE; give one, as GPT-2's is, or train one (TextTokenizer.train)")
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    printing = {chr(byte) for byte in range(0x21, 0x7F)}
    if not printing <= spec["model"]["vocab"].keys():
        raise InputError(f"{file}: not all of printing ASCII is in the vocabulary, so few texts can be written with it")
    made = {_merged(pair) for pair in spec["model"].get("merges", [])}
    added = {token["content"] for token in spec.get("added_tokens") or []} - alphabet - made
    vocab = {token: index for token, index in spec["model"]["vocab"].items() if token not in added}
    model = spec["model"] | {"vocab": vocab, "unk_token": None, "dropout": None}
    pre_tokenizer = _without_prefix_space(spec.get("pre_tokenizer"))
    stripped = dict.fromkeys(("normalizer", "post_processor", "truncation", "padding"))
    return spec | stripped | {"added_tokens": [], "model": model, "pre_tokenizer": pre_tokenizer}


def _merged(pair: str | Sequence[str]) -> str:
    """The token that a merge makes: of two tokens, in older files with a space between."""
    parts = pair.split(" ") if isinstance(pair, str) else pair
    return "".join(parts)


def _byte_level(part: dict | None) -> bool:
    part = part or {}
    return part.get("type") == "ByteLevel" or any(_byte_level(inner) for inner in part.get("decoders", []))


def _without_prefix_space(part: dict | None) -> dict | None:
    """A pre-tokenizer that begins no text with a space of its own."""
    if part is None:
        return None
    if part.get("type") == "Sequence":
        return part | {"pretokenizers": [_without_prefix_space(inner) for inner in part["pretokenizers"]]}
    if "add_prefix_space" in part:
        return part | {"add_prefix_space": False}
    return part
