"""Neural codecs as tokens: transformers' own codes, the two orders, spans that were cut off, and what is refused."""

import pytest
import torch
from tokenizer_examples import chirp, codec, codec_tokenizer

from mot_gen.errors import InputError
from mot_gen.sequence import Span
from mot_gen.tokenizers.speech_codec import SpeechCodecTokenizer
from mot_gen.tokenizers.speech_measures import speech_report

KINDS = ["encodec", "mimi", "dac"]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_codes_and_sound_are_the_codecs_own(kind, tmp_path):
    codec(kind).save_pretrained(tmp_path)
    tokenizer, sound = SpeechCodecTokenizer.from_codec(tmp_path, pattern="interleaved"), chirp(1)
    model = tokenizer.codec
    options = {"bandwidth": 1.6} if kind == "encodec" else {}
    codes = model.encode(sound[None, None], **options).audio_codes
    books = codes.shape[-2]
    frame_by_frame = codes.reshape(books, -1).T + 16 * torch.arange(books)
    span = tokenizer.encode(sound)
    assert torch.equal(span.values, frame_by_frame.flatten())
    assert tokenizer.modality.vocab_size == 16 * books == 16 * tokenizer.codebooks
    assert len(span) * tokenizer.samples_per_frame == len(sound) * books
    if kind == "encodec":
        heard = model.decode(codes, [None]).audio_values
    else:
        heard = model.decode(audio_codes=codes).audio_values
    torch.testing.assert_close(tokenizer.decode(span)[: heard.shape[-1]], heard.flatten().clamp(-1, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_and_with_fewer_codebooks(kind, tmp_path):
    tokenizer = codec_tokenizer(kind, codebooks=2)
    tokenizer.save_pretrained(tmp_path)
    loaded, whole = SpeechCodecTokenizer.from_pretrained(tmp_path), codec_tokenizer(kind)
    assert loaded.fingerprint == tokenizer.fingerprint != whole.fingerprint and loaded.modality.vocab_size == 32
    sounds = [chirp(0), chirp(1)[:5001], chirp(2)]
    for one, two, every in zip(*(each.encode_batch(sounds) for each in (tokenizer, loaded, whole))):
        assert torch.equal(one.values, two.values)
        assert torch.equal(tokenizer.unflatten(one), whole.unflatten(every)[:2])  # residual: the coarse ones stay


def test_the_delayed_order_is_musicgens():
    """Step by step along the diagonals: codebook k of frame t is written in step t + k."""
    tokenizer = codec_tokenizer(pattern="delayed")
    codes = torch.arange(15).view(3, 5)
    ids = tokenizer.flatten(codes)
    places = [(s - k, k) for s in range(7) for k in range(3) if 0 <= s - k < 5]
    assert ids.tolist() == [16 * k + int(codes[k, t]) for t, k in places]
    interleaved = codec_tokenizer(pattern="interleaved").flatten(codes)
    assert interleaved.tolist() == [16 * k + int(codes[k, t]) for t in range(5) for k in range(3)]


@pytest.mark.parametrize("pattern", ["delayed", "interleaved"])
def test_a_span_that_was_cut_off_keeps_its_whole_frames(pattern):
    tokenizer = codec_tokenizer(pattern=pattern)
    codes = torch.randint(16, (3, 5), generator=torch.Generator().manual_seed(0))
    ids = tokenizer.flatten(codes)
    assert torch.equal(tokenizer.unflatten(Span("speech", ids)), codes)
    for cut in range(1, 15):
        column = ids[:cut] // 16
        whole = min(int((column == k).sum()) for k in range(3))
        if whole:
            assert torch.equal(tokenizer.unflatten(Span("speech", ids[:cut])), codes[:, :whole])
        else:
            with pytest.raises(InputError, match="holds no whole frame of 3 codes"):
                tokenizer.decode(Span("speech", ids[:cut]))


def test_a_report_of_a_codec():
    report = speech_report(codec_tokenizer(), [chirp(0), chirp(1)])
    assert report["units_per_second"] == 150 and 0 < report["codebook_use"] <= 1 and report["mel_distance"] > 0


def test_what_does_not_fit_is_refused_in_one_line(tmp_path):
    config = codec("dac").config.to_diff_dict()
    stereo = codec("encodec").config.to_diff_dict() | {"audio_channels": 2, "normalize": True}
    for arguments, match in (
        ({"codec_config": config, "codebooks": 4}, "codebooks must lie in 1 to the 3 of this codec, got 4"),
        ({"codec_config": config, "pattern": "delay"}, "pattern 'delay' is not known; did you mean 'delayed'"),
        ({"codec_config": config | {"model_type": "hubert"}}, "codec 'hubert' is not known"),
        ({"codec_config": stereo}, "take one for mono"),
    ):
        with pytest.raises(InputError, match=match) as error:
            SpeechCodecTokenizer(**arguments)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="no neural codec found"):
        SpeechCodecTokenizer.from_codec(tmp_path / "missing")
