"""Bytes, a tokenizer that needs no training."""

import hashlib

import torch

from mot_gen.errors import InputError
from mot_gen.sequence import Modality, Span


class Bytes:
    """Text as its bytes; counts what it is asked to encode, and cannot encode what is spelled `broken`."""

    modality = Modality("text", vocab_size=256)

    def __init__(self):
        self.asked: list[str] = []

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(b"bytes").hexdigest()

    def encode(self, text: str) -> Span:
        self.asked.append(text)
        if "broken" in text:
            raise InputError("cannot be encoded")
        return Span("text", torch.tensor(list(text.encode())))

    def encode_batch(self, texts) -> list[Span]:
        return [self.encode(text) for text in texts]
