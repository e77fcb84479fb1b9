"""TextTokenizer: exact round trips, other people's tokenizer.json without its special tokens, life in a pipeline."""

import json
import random
import sys

import pytest
import tokenizers
import torch
from diffusers import DiffusionPipeline
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import GPT2TokenizerFast

from mot_gen.errors import InputError
from mot_gen.tokenizers.text import TextTokenizer

CORPUS = ["a handwritten seven", "the digit nine, written by hand", "draw a small three"] * 5


@pytest.fixture(scope="module")
def tokenizer():
    return TextTokenizer.train(CORPUS, 280)


def foreign(folder, **changes):
    """A byte-level tokenizer.json as published ones are: normaliser, prefix space, truncation, special tokens."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)
    split = pre_tokenizers.Split(tokenizers.Regex(r"\s+|\S+"), "isolated")
    bpe = tokenizers.Tokenizer(models.BPE(ignore_merges=True))
    bpe.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    bpe.decoder = decoders.ByteLevel()
    options = {"special_tokens": ["</s>", "<|image|>"], "show_progress": False, "vocab_size": 300}
    trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **options)
    bpe.train_from_iterator(CORPUS, trainer)
    bpe.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 0)])
    bpe.enable_truncation(4)
    spec = json.loads(bpe.to_str()) | changes
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    config = {"bos_token": "<|image|>", "eos_token": "</s>", "name": "x"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_every_character_of_the_basic_plane_and_a_sixteenth_of_the_others_survives(tokenizer):
    points = [chr(c) for c in [*range(0xD800), *range(0xE000, 0x10000), *range(0x1000F, sys.maxunicode + 1, 16)]]
    random.Random(0).shuffle(points)
    texts = ["".join(points[i : i + 256]) for i in range(0, len(points), 256)]
    assert tokenizer.decode_batch(tokenizer.encode_batch(texts)) == texts


MARKS = ["e\u0301\u0327", "ﬁ Å", "👩\u200d👩\u200d👧🏽", "שלום\u202e", "\ufeffx"]
AWKWARD = ["", " ", "  two  spaces ", "\x00\x01", "\r\n\t", "</s><|image|>[PAD]", *MARKS]


@pytest.mark.parametrize("text", AWKWARD)
def test_awkward_text_survives(tokenizer, text, tmp_path):
    assert tokenizer.decode(tokenizer.encode(text)) == text
    other = TextTokenizer.from_pretrained(foreign(tmp_path))
    assert other.decode(other.encode(text)) == text


@pytest.mark.parametrize("surrogate", ["\ud800", "ab\udfff", "\udc80 x"])
def test_a_lone_surrogate_is_named(tokenizer, surrogate):
    with pytest.raises(InputError, match=r"lone surrogate U\+D[8-F]") as error:
        tokenizer.encode(surrogate)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="lone surrogate"):
        TextTokenizer.train([surrogate], 256)


def test_training_merges_what_is_frequent_and_no_more_than_asked(tokenizer):
    assert tokenizer.vocab_size == 280
    bytes_alone = TextTokenizer.train([], 256)
    assert 3 * len(tokenizer.encode("a handwritten seven")) < len(bytes_alone.encode("a handwritten seven"))
    assert TextTokenizer.train(CORPUS, 280).fingerprint == tokenizer.fingerprint
    assert TextTokenizer.train(CORPUS, 279).fingerprint != tokenizer.fingerprint
    assert TextTokenizer.train([], 1000).vocab_size == 256
    with pytest.raises(InputError, match="at least 256"):
        TextTokenizer.train(CORPUS, 255)


def test_special_tokens_of_others_become_text(tmp_path):
    original = tokenizers.Tokenizer.from_file(str(foreign(tmp_path) / "tokenizer.json"))
    special = {original.token_to_id("</s>"), original.token_to_id("<|image|>")}
    assert special & set(original.encode("</s>").ids)  # the file really has them
    ours = TextTokenizer.from_pretrained(tmp_path)
    assert not special & set(ours.encode("a</s> <|image|> </s>").values.tolist())
    assert not special & set(ours("a</s> <|image|> </s>")["input_ids"])
    assert not ours.all_special_tokens and not ours.get_added_vocab()
    assert ours.decode(ours.encode(" UPPER a b c d e f g")) == " UPPER a b c d e f g"


def test_apart_from_that_the_tokens_are_those_of_the_file(tmp_path):
    gpt2 = TextTokenizer.train(CORPUS, 280)
    gpt2.save_pretrained(tmp_path)
    reference = GPT2TokenizerFast.from_pretrained(tmp_path)
    for text in CORPUS[:3]:
        assert reference(text)["input_ids"] == gpt2.encode(text).values.tolist() == gpt2(text)["input_ids"]
    by_file = TextTokenizer.from_pretrained(tmp_path / "tokenizer.json")
    assert by_file.fingerprint == gpt2.fingerprint


def test_what_cannot_be_exact_is_refused(tmp_path):
    words = tokenizers.Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    words.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InputError, match="not a byte-level BPE"):
        TextTokenizer.from_pretrained(tmp_path)
    vocab = {"a": 0, "b": 1}
    foreign(tmp_path, model={"type": "BPE", "vocab": vocab, "merges": []})
    with pytest.raises(InputError, match="not all of printing ASCII"):
        TextTokenizer.from_pretrained(tmp_path)
    strip = {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    foreign(tmp_path, pre_tokenizer={"type": "Sequence", "pretokenizers": [strip, byte_level]})
    with pytest.raises(InputError, match="does not survive"):
        TextTokenizer.from_pretrained(tmp_path)


def test_a_rare_byte_that_is_missing_refuses_the_text_that_needs_it(tmp_path):
    alphabet = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - {"Ā", "č"})  # the bytes 0x00 and 0x0D
    foreign(tmp_path, model={"type": "BPE", "vocab": {c: i for i, c in enumerate(alphabet)}, "merges": []})
    tokenizer = TextTokenizer.from_pretrained(tmp_path)
    assert tokenizer.missing_bytes == {0x00, 0x0D}
    assert tokenizer.decode(tokenizer.encode("naïve 北京\n")) == "naïve 北京\n"
    with pytest.raises(InputError, match=r"U\+000D at character 1, which this tokenizer cannot write"):
        tokenizer.encode("a\r\n")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": {"type": "BPE"}}'])
def test_a_broken_file_is_one_line(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match=r"tokenizer\.json") as error:
        TextTokenizer.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


def test_a_folder_without_one_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no tokenizer\.json"):
        TextTokenizer.from_pretrained(tmp_path)


def test_transformers_ways_still_work(tokenizer):
    ids = tokenizer("a handwritten seven")["input_ids"]
    assert tokenizer.decode(ids) == tokenizer.decode(torch.tensor(ids)) == "a handwritten seven"
    assert tokenizer.batch_decode([ids, ids[:1]]) == tokenizer.decode([ids, ids[:1]])
    assert "".join(tokenizer.decode([i]) for i in ids) == "a handwritten seven"
    assert len(tokenizer) == tokenizer.vocab_size == tokenizer.modality.vocab_size


def test_bytes_that_are_no_text_decode_to_the_replacement_character(tokenizer):
    first = tokenizer.encode("é").values[:1]
    assert tokenizer.decode(first) == "\ufffd"


class CaptionPipeline(DiffusionPipeline):
    """The least pipeline that carries a text tokenizer."""

    def __init__(self, tokenizer: TextTokenizer):
        super().__init__()
        self.register_modules(tokenizer=tokenizer)


def test_a_pipeline_carries_it(tokenizer, tmp_path):
    CaptionPipeline(tokenizer).save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer" / "tokenizer.json").is_file()
    loaded = CaptionPipeline.from_pretrained(tmp_path).tokenizer
    assert isinstance(loaded, TextTokenizer) and loaded.fingerprint == tokenizer.fingerprint
