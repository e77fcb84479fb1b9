"""load_audio: formats, rates, channels and depths against the samples they were made from; what it refuses."""

import io
import math

import pytest
import soundfile
import torch

from mot_gen.errors import InputError
from mot_gen.files import audio_files
from mot_gen.files.audio_files import load_audio, resample, save_audio


def tone(frequency=440.0, rate=16000, seconds=0.5, amplitude=0.5):
    return amplitude * torch.sin(2 * math.pi * frequency * torch.arange(round(seconds * rate)) / rate)


def file_bytes(samples, rate=16000, kind="WAV", **kwargs):
    out = io.BytesIO()
    soundfile.write(out, samples.numpy(), rate, format=kind, **kwargs)
    return out.getvalue()


@pytest.mark.parametrize(("kind", "tolerance"), [("WAV", 2**-15), ("FLAC", 2**-15), ("OGG", 0.05)])
def test_formats_come_back_from_bytes_and_paths(kind, tolerance, tmp_path):
    expected = tone()
    data = file_bytes(expected, kind=kind)
    path = tmp_path / f"a.{kind.lower()}"
    path.write_bytes(data)
    waveform, rate = load_audio(data)
    assert rate == 16000 and waveform.dtype == torch.float32 and waveform.shape == expected.shape
    assert (waveform - expected).abs().max() <= tolerance
    assert torch.equal(load_audio(path)[0], waveform) and torch.equal(load_audio(str(path))[0], waveform)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_a_tone_at_any_rate_is_that_tone_at_the_rate_asked_for(rate):
    waveform, got = load_audio(file_bytes(tone(rate=rate), rate), 16000)
    assert got == 16000 and len(waveform) == math.ceil(0.5 * 16000)
    inside = slice(400, -400)  # the filter reaches past both ends
    assert (waveform[inside] - tone()[inside]).abs().max() < 5e-3


def test_resampling_down_leaves_nothing_above_the_new_half_rate():
    assert resample(tone(7000, 16000), 16000, 8000)[200:-200].abs().max() < 5e-3


@pytest.mark.parametrize("channels", [2, 8])
def test_channels_are_averaged(channels):
    parts = torch.stack([tone(100.0 * (c + 1)) for c in range(channels)])
    for raw in (file_bytes(parts.T, subtype="FLOAT"), (parts, 16000)):
        assert (load_audio(raw)[0] - parts.mean(0)).abs().max() < 1e-6


def test_samples_of_any_depth_have_one_scale():
    expected = tone()
    for subtype, tolerance in (("PCM_U8", 1e-2), ("PCM_16", 4e-5), ("PCM_24", 1e-6), ("FLOAT", 0), ("DOUBLE", 1e-7)):
        assert (load_audio(file_bytes(expected, subtype=subtype))[0] - expected).abs().max() <= tolerance
    for dtype in (torch.int16, torch.int32):
        integers = (expected.double() * -torch.iinfo(dtype).min).round().to(dtype)
        assert (load_audio((integers, 16000))[0] - expected).abs().max() < 2e-5
    assert torch.equal(load_audio(expected, 16000)[0], expected)
    for name in ("array", "raw"):  # as datasets and transformers have it
        assert torch.equal(load_audio({name: expected, "sampling_rate": 16000, "path": "a.wav"})[0], expected)
    assert torch.equal(load_audio({"bytes": file_bytes(tone()), "path": None})[0], load_audio(file_bytes(tone()))[0])


def nan_at_3():
    samples = tone()
    samples[3] = math.nan
    return samples


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "not sound that can be read"),
        (b"RIFF" + bytes(40), "not sound that can be read"),
        (file_bytes(torch.zeros(0)), "holds 0 samples; at least 2"),
        (file_bytes(torch.ones(1)), "holds 1 samples; at least 2"),
        (file_bytes(torch.zeros(8000)), "is silent"),
        (torch.zeros(2, 8000), "is silent"),
        (file_bytes(nan_at_3(), subtype="FLOAT"), "NaN"),
        (nan_at_3(), "NaN"),
        (tone().to(torch.uint8), "no known scale"),
        (tone()[None, None], "must be"),
        (tone()[:, None], "more channels than samples"),
        ((tone(), 0), "whole number of Hz"),
        (3.0, "cannot read sound from float"),
        ({"path": None}, "cannot read sound from dict"),
        ("missing.wav", r"missing\.wav: no such sound file"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(raw, reason):
    with pytest.raises(InputError, match=reason) as caught:
        load_audio(raw, 16000)
    assert "\n" not in str(caught.value)


def test_a_file_is_named_and_a_long_one_refused_by_its_header(tmp_path, monkeypatch):
    path = tmp_path / "long.wav"
    path.write_bytes(file_bytes(tone()))
    monkeypatch.setattr(audio_files, "MAX_SECONDS", 0.25)
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *args, **kwargs: pytest.fail("decoded"))
    with pytest.raises(InputError, match=r"long\.wav: refused before decoding"):
        load_audio(path)


def test_a_truncated_flac_is_refused():
    data = file_bytes(tone(), kind="FLAC")
    with pytest.raises(InputError, match=r"recording of \d+ bytes"):
        load_audio(data[: len(data) // 2])


@pytest.mark.parametrize("kind", ["WAV", "OGG"])
def test_a_file_that_is_cut_off_is_refused(kind, tmp_path):
    data = file_bytes(tone(seconds=4.0), kind=kind)
    path = tmp_path / "cut"
    for share in (0.01, 0.5, 0.9):
        path.write_bytes(data[: int(share * len(data))])
        for raw in (path, path.read_bytes()):
            with pytest.raises(InputError) as error:
                load_audio(raw)
            assert "\n" not in str(error.value)
            assert "is cut off" in str(error.value) or share == 0.01  # too little to be sound at all


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF])
def test_a_wav_that_was_written_to_a_pipe_does_not_know_its_size(size):
    data = bytearray(file_bytes(tone()))
    at = data.index(b"data") + 4
    data[at : at + 4] = size.to_bytes(4, "little")
    assert torch.equal(load_audio(bytes(data))[0], load_audio(file_bytes(tone()))[0])


def test_opposite_channels_are_no_silence():
    channels = torch.stack([0.5 * tone(), -0.5 * tone()])
    for raw in (file_bytes(channels.T, subtype="FLOAT"), (channels, 16000)):
        assert (load_audio(raw)[0].abs() - (0.5 * tone()).abs()).abs().max() < 1e-6


def test_samples_without_a_rate_are_refused():
    with pytest.raises(InputError, match="give \\(samples, rate\\)"):
        load_audio(tone())


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_what_is_saved_is_read_back(suffix, tmp_path):
    save_audio(tmp_path / f"a.{suffix}", tone(), 16000)
    waveform, rate = load_audio(tmp_path / f"a.{suffix}")
    assert rate == 16000 and (waveform - tone()).abs().max() < (0.05 if suffix == "ogg" else 4e-5)
    with pytest.raises(InputError, match="cannot be written"):
        save_audio(tmp_path / "a.xyz", tone(), 16000)
