"""Text as byte-level BPE tokens: TextTokenizer.

Byte-level means that the 256 bytes are themselves tokens, so that every text can be written and is read back exactly:
nothing is normalised, stripped, prefixed or unknown. Some published tokenizers lack a few rare bytes; a text that needs
one is refused. There are no special tokens here. A text that spells `<|image|>` or `</s>` is that text; the tokens
which bound documents and spans are added by packing, outside this vocabulary.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, cast

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mot_gen.errors import InputError, expect
from mot_gen.files.hub import folder_or_name
from mot_gen.sequence import Modality, Span
from mot_gen.tokenizers.fingerprint import fingerprint
from mot_gen.tokenizers.span_ids import check_ids
from mot_gen.tokenizers.text_files import read_text_files

_PROBE = "  The é e\u0301 ﬁ Å🙂\u200d\x00\x1b\tß\r\n\n  ▁Ġ </s> <|image|> [MASK] 北京\ufeff\U0010ffff 12345 "


class TextTokenizer(PreTrainedTokenizerFast):
    """str <-> Span of n ids; the round trip is exact for every str that Unicode can encode.

    Make one with `train`, or `from_pretrained` (a folder, a `tokenizer.json`, or a hub name). It is a transformers
    tokenizer so that diffusers pipelines carry it, and `tok(text)` gives `input_ids` as usual; but `encode` and
    `decode` keep the promises of this package's tokenizers: `encode` returns a `Span`, `decode` takes one (or ids).

    name: what its modality is called. layout: further fields of its modality, such as the begin and end of a published
    model (`with_layout`). specials: the ids of a published model's special tokens, by their names. No text has them;
    only what a chat template writes around texts does (`encode_template`).
    """

    discrete = True  # its tokens are ids

    def __init__(
        self,
        tokenizer_object: Tokenizer | None = None,
        name: str = "text",
        layout: dict | None = None,
        specials: dict | None = None,
        **kwargs,
    ):
        if tokenizer_object is None:
            raise InputError("make a TextTokenizer with TextTokenizer.train or TextTokenizer.from_pretrained")
        super().__init__(tokenizer_object=tokenizer_object, name=name, layout=layout, specials=specials, **kwargs)

    def with_layout(self, **layout) -> TextTokenizer:
        """The same tokenizer, whose modality has these fields too, see `sequence.Modality`; saved with it."""
        return TextTokenizer(self._tokenizer, self.name, layout, self.specials, chat_template=self.chat_template)

    def with_chat_template(self, template: str | None) -> TextTokenizer:
        """The same tokenizer with this template of chat messages, in Jinja; saved with it."""
        return TextTokenizer(self._tokenizer, self.name, self.layout or None, self.specials, chat_template=template)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, name: str = "text") -> TextTokenizer:
        """BPE merges (Sennrich et al., 2016, on bytes as in GPT-2) learned from texts, at most vocab_size tokens.

        The vocabulary is smaller where the texts hold no more pairs to merge. Raises InputError below 256.
        """
        if vocab_size < 256:
            raise InputError(f"vocab_size must be at least 256, the number of bytes, got {vocab_size}")
        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
        bpe.train_from_iterator((_encodable(text) for text in texts), trainer)
        return cls(bpe, name)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, name: str | None = None, **kwargs) -> TextTokenizer:  # type: ignore[override]  # no init inputs
        """From a folder, a `tokenizer.json` or a hub name, with all its added and special tokens taken out.

        kwargs: what finds the file (subfolder, revision, cache_dir, local_files_only, token). Raises InputError where
        there is none, or where text would not survive it (not a byte-level BPE). Where some of the 256 bytes are not in
        the vocabulary, `encode` refuses the texts that need one.
        """
        files = read_text_files(str(folder_or_name(pretrained_model_name_or_path)), **kwargs)
        if files.config.get("tokenizer_class") == cls.__name__:
            own: dict[str, Any] = {field: files.config.get(field) for field in ("name", "layout", "specials")}
        else:
            own = {"name": None, "layout": None, "specials": files.specials}
        own["name"] = name or own["name"] or "text"
        tokenizer = cls(files.backend, **own, chat_template=files.template)
        if not tokenizer._keeps_texts():
            raise InputError(
                f"{files.path}: text does not survive this tokenizer; give a byte-level BPE, as GPT-2's is"
            )
        return tokenizer

    def _keeps_texts(self) -> bool:
        """Whether a text of all kinds of characters is the same after encoding and decoding, but for those that need
        missing bytes."""
        probe = "".join(character for character in _PROBE if self._can_write(character))
        return self.decode(self.encode(probe)) == probe

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max(self.get_vocab().values()) + 1

    @property
    def modality(self) -> Modality:
        """What its spans are: discrete, of the whole vocabulary, with the fields of `layout`."""
        return Modality(**{"name": self.name, "vocab_size": self.vocab_size, **self.layout})

    @property
    def layout(self) -> dict:
        """Further fields of its modality."""
        return self.init_kwargs.get("layout") or {}

    @property
    def specials(self) -> dict[str, int]:
        """The ids of special tokens that only a template writes, by name."""
        return self.init_kwargs.get("specials") or {}

    @property
    def name(self) -> str:
        """What its modality is called."""
        return self.init_kwargs["name"]

    @property
    def fingerprint(self) -> str:
        """sha256 over vocabulary, merges and settings, in hex."""
        assert self._tokenizer is not None, "__init__ was given one"
        backend = json.loads(self._tokenizer.to_str())
        about = [self.name, backend]
        if self.layout:
            about.append(self.layout)
        return fingerprint(about)

    def encode(self, text: str) -> Span:
        """str -> Span of (n,) int64 ids. Raises InputError for a lone surrogate, which no encoding can carry."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[Span]:
        """Many texts; the same spans as one by one."""
        checked = [self._writable(_encodable(text)) for text in texts]
        assert self._tokenizer is not None, "__init__ was given one"
        encodings = self._tokenizer.encode_batch_fast(checked, add_special_tokens=False)
        return [Span(self.name, torch.tensor(encoding.ids, dtype=torch.int64)) for encoding in encodings]

    def encode_template(self, text: str, texts: Mapping[str, str]) -> Span:
        """What a template wrote -> its ids. Special tokens that it spells become theirs; `texts` then stand for their
        keys, so that what a user wrote stays text even where it spells a special token."""
        ids: list[int] = []
        pieces = re.split(self._special_pattern, text) if self.specials else [text]
        for place, piece in enumerate(pieces):
            if place % 2:  # what the pattern matched stands at every second place
                ids.append(self.specials[piece])
                continue
            for key, value in texts.items():
                piece = piece.replace(key, value)
            if piece:
                ids += self.encode(piece).values.tolist()
        return Span(self.name, torch.tensor(ids, dtype=torch.int64))

    @cached_property
    def _special_pattern(self) -> str:
        longest_first = sorted(self.specials, key=len, reverse=True)
        return "(" + "|".join(map(re.escape, longest_first)) + ")"

    @cached_property
    def missing_bytes(self) -> frozenset[int]:
        """Bytes that are not in the vocabulary. Some tokenizers, SmolLM2's among them, leave out rare ones."""
        known = self.get_vocab()
        return frozenset(byte for byte, character in enumerate(_byte_characters()) if character not in known)

    def _writable(self, text: str) -> str:
        """The text; InputError where a character needs a byte that the vocabulary does not have."""
        if self._can_write(text):
            return text
        place = next(place for place, character in enumerate(text) if not self._can_write(character))
        raise InputError(
            f"text holds U+{ord(text[place]):04X} at character {place}, which this tokenizer cannot write: "
            "a byte of it is not in the vocabulary; leave the character out, or use another tokenizer"
        )

    def _can_write(self, text: str) -> bool:
        """Whether the vocabulary has all bytes of a text."""
        return not self.missing_bytes or self.missing_bytes.isdisjoint(text.encode())

    def decode(self, token_ids, *args, **kwargs) -> str:
        """Span -> str; also what transformers takes: ids, a tensor of them, or a batch of either -> list[str].

        Bytes that are not UTF-8 together become U+FFFD. Raises InputError for a span with ids out of the vocabulary.
        """
        if isinstance(token_ids, Span):
            if len(token_ids):
                check_ids(token_ids, self.vocab_size, self.name)
            token_ids = token_ids.values.tolist()
        return cast(str, super().decode(token_ids, *args, **kwargs))

    def decode_batch(self, spans: Sequence[Span]) -> list[str]:
        """Many spans; the same texts as one by one."""
        return [self.decode(span) for span in spans]


def _byte_characters() -> list[str]:
    """The character that stands for each of the 256 bytes in a byte-level vocabulary, as GPT-2 chose them.

    Bytes that print as themselves do so; the others are, in their order, the characters from U+0100 on.
    """
    printing = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    characters = []
    for byte in range(256):
        characters.append(chr(byte) if byte in printing else chr(next(others)))
    return characters


def _encodable(text: str) -> str:
    expect(isinstance(text, str), "a text must be a str; encode_batch takes lists", text)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"text holds the lone surrogate U+{ord(text[error.start]):04X} at character {error.start}, "
            "which UTF-8 cannot encode; was it read with errors='surrogateescape'?"
        ) from error
    return text
