"""Recognisers: what was said is heard, alone as in a batch; a saved model of transformers; what is missing is named."""

import importlib.util
import json
import math
import sys

import pytest
import torch

from mot_gen.errors import InputError
from mot_gen.eval.speech.recognition import SphinxRecognizer, TransformersRecognizer, WordRecognizer, spectrograms

has_sphinx = pytest.mark.skipif(not importlib.util.find_spec("pocketsphinx"), reason="needs the extra recognition")
WORDS = ["low", "middle", "high"]


def tone(number, seconds=0.4, detune=1.0, rate=16000):
    time = torch.arange(int(seconds * rate)) / rate
    return 0.3 * torch.sin(2 * math.pi * 300 * 3**number * detune * time)


def test_a_word_recognizer_hears_what_it_was_trained_on_at_any_gain_and_rate():
    said = [word for word in WORDS for _ in range(6)]
    sounds = [tone(WORDS.index(word), 0.3 + 0.05 * i, 0.9 + 0.04 * i) for word in WORDS for i in range(6)]
    hear = WordRecognizer.train(sounds, said, 16000, seconds=0.6, epochs=30)
    unheard = [tone(number, 0.45, 1.01) for number in range(3)]
    assert hear(unheard, 16000) == WORDS and [hear([sound], 16000)[0] for sound in unheard] == WORDS
    assert hear([0.01 * sound for sound in unheard], 16000) == WORDS
    assert hear([tone(number, 0.45, rate=24000) for number in range(3)], 24000) == WORDS
    assert hear([], 16000) == []


def test_spectrograms_do_not_hear_the_gain_and_have_one_size():
    pictures = spectrograms([tone(0), 0.1 * tone(0), tone(0, 2.0)], 16000, 1.0)
    assert pictures.shape == (3, 40, 1, 41) and pictures.min() >= 0 and pictures.max() == 1
    assert torch.allclose(pictures[0], pictures[1], atol=1e-3)


@has_sphinx
def test_sphinx_hears_spoken_digits():
    pytest.importorskip("espeakng_loader", reason="needs the extra speech")
    from mot_gen.datasets.spoken import Voice, synthesize_batch

    words = ["zero", "one", "three", "four", "six", "seven"]
    (sounds, rates) = zip(*synthesize_batch([(word, Voice(speed=140)) for word in words]))
    hear = SphinxRecognizer(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
    heard = hear(sounds, rates[0])
    assert sum(a == b for a, b in zip(heard, words)) >= 5 and hear(sounds[:1], rates[0]) == heard[:1]
    assert hear([0.01 * sounds[0]], rates[0]) == heard[:1]
    with pytest.raises(InputError, match="'zxqv' is not in PocketSphinx's dictionary"):
        SphinxRecognizer(["zero", "zxqv"])


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    with pytest.raises(InputError, match=r"pocketsphinx.*mot-gen\[recognition\]"):
        SphinxRecognizer()


def test_a_saved_model_of_transformers_writes_what_its_ctc_says(tmp_path):
    from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    letters = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, **{c: 5 + i for i, c in enumerate("abcdefgh")}}
    (tmp_path / "vocab.json").write_text(json.dumps(letters))
    config = Wav2Vec2Config(
        vocab_size=len(letters), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        conv_dim=(8,) * 7, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Wav2Vec2ForCTC(config).eval()
    model.lm_head.weight.data.mul_(50)
    model.save_pretrained(tmp_path)
    tokenizer = Wav2Vec2CTCTokenizer(tmp_path / "vocab.json")
    tokenizer.save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(tmp_path)
    hear, sounds = TransformersRecognizer(tmp_path), [tone(0), tone(2, 0.6)]
    for sound, heard in zip(sounds, hear(sounds, 16000)):
        scaled = (sound - sound.mean()) / (sound.var(unbiased=False) + 1e-7).sqrt()
        with torch.no_grad():
            ids = model(scaled[None]).logits.argmax(-1)[0]
        assert heard == tokenizer.decode(ids).strip()
    with pytest.raises(InputError, match="no model of speech recognition"):
        TransformersRecognizer(tmp_path / "missing")
