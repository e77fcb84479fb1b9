"""Texts as a transformers model in a local folder sees them: TextEncoder, for MAUVE and BERTScore."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mot_gen.errors import InputError, require
from mot_gen.eval.images.extractors import precision, weights_sha256
from mot_gen.eval.transformers_folders import network_of, processor_of

LONGEST = 1024  # tokens of a text that are read, where the model takes as many


class TokenEmbeddings(NamedTuple):
    """The embeddings of one text. vectors: (n, d). counted: (n,) bool, false for special tokens."""

    vectors: Tensor
    counted: Tensor


class TextEncoder(nn.Module):
    """Hidden states of any transformers model with a tokenizer beside it; float32, one text at a time.

    layer: which hidden states are taken, 0 for the embeddings; None for the last.
    """

    def __init__(self, folder: str | Path, layer: int | None = None):
        from transformers import AutoModel, AutoTokenizer

        super().__init__()
        self.model = network_of(AutoModel, folder, "save a transformers model of texts and its tokenizer there")
        self.tokenizer = processor_of(AutoTokenizer, folder)
        self.name, self.layer, self.sha256 = Path(folder).name, layer, weights_sha256(self.model)
        depth = getattr(self.model.config, "num_hidden_layers", None)
        if depth is None:
            raise InputError(f"{folder}: a {type(self.model).__name__} has no layers of texts; give another model")
        if layer is not None and not 0 <= layer <= depth:
            raise InputError(f"{folder}: layer {layer} is not between 0 and {depth}")
        self.requires_grad_(False)

    @classmethod
    def of(cls, encoder: TextEncoder | str | Path | None) -> TextEncoder | None:
        """The encoder of a folder; an encoder, or None, as it is."""
        return cls(encoder) if isinstance(encoder, (str, Path)) else encoder

    @torch.no_grad()
    def tokens(self, text: str) -> TokenEmbeddings:
        """Hidden states of every token, special ones included."""
        longest = min(LONGEST, getattr(self.model.config, "max_position_embeddings", LONGEST))
        encoded = self.tokenizer(
            text, truncation=True, max_length=longest, return_tensors="pt", return_special_tokens_mask=True
        )
        special = encoded.pop("special_tokens_mask")[0].bool()
        with precision("float32", self.model.device.type):
            output = self.model(**encoded.to(self.model.device), output_hidden_states=True)
        states = output.hidden_states[-1 if self.layer is None else self.layer][0]
        return TokenEmbeddings(states, ~special.to(states.device))

    def last(self, texts: Sequence[str]) -> Tensor:
        """(N, d): the hidden state of each text's last token. InputError for an empty text."""
        rows = []
        for number, text in enumerate(texts):
            require(text, f"text {number} is empty, so it has no features; leave it out")
            rows.append(self.tokens(text).vectors[-1])
        return torch.stack(rows)

    def provenance(self) -> dict[str, str | int]:
        layer = self.model.config.num_hidden_layers if self.layer is None else self.layer
        return {"extractor": self.name, "sha256": self.sha256, "layer": layer, "dtype": "float32"}
