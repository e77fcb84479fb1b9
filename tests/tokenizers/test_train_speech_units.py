"""Training of speech units as a recipe does it: stopped and gone on to the bit, and recordings that cannot be used."""

import logging

import pytest
import torch
from tokenizer_examples import chirp

from mot_gen.errors import InputError, Interrupted
from mot_gen.files.audio_files import MAX_SKIPPED, load_sounds
from mot_gen.tokenizers.train_speech_units import Training, measure, train, train_speech_units, untrained

RAWS = [(f"chirp {n}", chirp(n)[:6400]) for n in range(4)]
OPTIONS = Training(steps=6, batch_size=2, crop_units=10, checkpoint_every=2, log_every=2, warmup_steps=1)


def fresh():
    torch.manual_seed(0)
    return untrained(vocab_size=12)


def test_stopped_and_gone_on_is_the_same_to_the_bit(tmp_path):
    whole, rows = fresh(), []
    train(whole, RAWS, OPTIONS, tmp_path / "whole", lambda step, **losses: rows.append((step, losses)), lambda: False)
    assert [step for step, _ in rows] == [2, 4, 6] and rows[0][1].keys() == {"mel", "duration"}
    parts, answers = fresh(), iter([False, False, True])
    with pytest.raises(Interrupted, match="step 3 of the speech tokenizer; the same command goes on"):
        train(parts, RAWS, OPTIONS, tmp_path / "parts", lambda *_, **__: None, lambda: next(answers))
    again = fresh()
    train(again, RAWS, OPTIONS, tmp_path / "parts", lambda *_, **__: None, lambda: False)
    assert again.fingerprint == whole.fingerprint
    found = measure(again, RAWS)
    assert found["recordings"] == 4 and 0 <= found["reencoding_agreement"] <= 1


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    train(fresh(), RAWS, OPTIONS, tmp_path, lambda *_, **__: None, lambda: False)
    other = Training(**vars(OPTIONS) | {"lr": 1e-3})
    for raws, options, named in ((RAWS, other, "lr 0.002, not 0.001"), (RAWS[:3], OPTIONS, "other recordings")):
        with pytest.raises(InputError, match=rf"training\.pt: is of a training with {named}"):
            train(fresh(), raws, options, tmp_path, lambda *_, **__: None, lambda: False)
    (tmp_path / "training.pt").write_bytes(b"no checkpoint")
    with pytest.raises(InputError, match="not a checkpoint that can be read"):
        train(fresh(), RAWS, OPTIONS, tmp_path, lambda *_, **__: None, lambda: False)


def test_what_cannot_be_used_is_named_and_skipped_up_to_a_cap(caplog, tmp_path):
    silent = [(f"silent {n}", torch.zeros(900)) for n in range(MAX_SKIPPED + 1)]
    sounds, skipped = load_sounds([*RAWS, *silent[1:]], 16000)
    assert list(sounds) == [name for name, _ in RAWS] and len(skipped) == MAX_SKIPPED
    assert skipped[0].startswith("silent 1: ") and "is silent" in skipped[0]
    with pytest.raises(InputError, match=f"more than {MAX_SKIPPED} recordings cannot be used; the last: silent 20"):
        load_sounds([*RAWS, *silent], 16000)
    with pytest.raises(InputError, match="no recording can be used; silent 0"):
        load_sounds(silent[:1], 16000)
    with caplog.at_level(logging.WARNING):
        measure(fresh(), [*RAWS[:1], silent[0]])
    assert "skipped silent 0" in caplog.text


def test_a_single_recording_is_no_list_of_them():
    with pytest.raises(InputError, match=r"recordings: give a list of them, got 'a\.wav'"):
        train_speech_units(untrained(vocab_size=8), "a.wav")
