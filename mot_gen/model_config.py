"""MultimodalConfig: what a model is made of, as `config.json` has it; modality_of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from mot_gen.errors import nearest, require
from mot_gen.sequence import Modality

# The fields of a modality that every config states; the others say how a published model lays out its sequences.
ALWAYS_STATED = ("name", "vocab_size", "channels", "bidirectional", "objective", "position")
LAYOUT_DEFAULTS = {f.name: f.default for f in fields(Modality) if f.name not in ALWAYS_STATED}


@dataclass
class MultimodalConfig:
    """What a model is made of; `MultimodalModel(**config.to_dict())` builds it.

    modalities: the first is text.
    backbone: {"kind": "mot", "dim": ..., ...}, see `mot_gen.backbone`.
    objectives: {modality: {"kind": "flow", ...}} where an option differs from the default of the modality's objective.
    patch_layers: {modality: {"kind": "linear" or "unet", ...}} for continuous modalities; linear by default.
    token_layers: {modality: options of `TokenLayers`} of discrete modalities that are apart.
    embedding_scale: what embedded tokens are multiplied by (Gemma: the root of its width).
    context: the longest document it is trained on, in tokens; pipelines refuse what is longer.
    tokenizers: {modality: fingerprint} of the tokenizers that it was trained with, written when a pipeline is saved.
    """

    modalities: list[Modality]
    backbone: dict
    objectives: dict[str, dict] = field(default_factory=dict)
    patch_layers: dict[str, dict] = field(default_factory=dict)
    context: int | None = None
    tokenizers: dict[str, str] | None = None
    token_layers: dict[str, dict] = field(default_factory=dict)
    embedding_scale: float = 1.0

    def to_dict(self) -> dict:
        """Keyword arguments of `MultimodalModel` that JSON can hold. Of a modality's layout it has only what differs
        from the defaults."""
        stated = asdict(self)
        for modality in stated["modalities"]:
            _leave_out_defaults(modality)
        if not self.token_layers:
            del stated["token_layers"]
        if self.embedding_scale == 1:
            del stated["embedding_scale"]
        return stated


def _leave_out_defaults(modality: dict[str, Any]) -> None:
    """Drop what a modality says of its layout where it is the default."""
    for name, default in LAYOUT_DEFAULTS.items():
        if modality[name] == default:
            del modality[name]


def modality_of(given: Mapping[str, Any]) -> Modality:
    """The modality of a config; InputError for what is no dict of its fields."""
    remedy = "give MultimodalConfig(modalities=..., backbone=...).to_dict()"
    require(isinstance(given, Mapping), f"modalities: must be dicts, got {type(given).__name__}; {remedy}")
    known = [each.name for each in fields(Modality)]
    for name in given:
        require(name in known, f"modalities: {name!r} is no field of a modality" + nearest(name, known))
    return Modality(**given)
