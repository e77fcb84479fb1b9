"""Any recording into one channel of samples, and back: load_audio, load_sounds, resample, save_audio.

A raw recording is a path (or what reads as one, such as a UPath) or the bytes of a file that soundfile reads (WAV,
FLAC, OGG, MP3), a pair (samples, rate in Hz), or samples alone where the rate is known. Samples are a tensor or an
array (T,) or (channels, T), floats in about [-1, 1] or integers of 16 or 32 bits.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mot_gen.errors import InputError, one_line

if TYPE_CHECKING:  # imported by those who read sound
    from torch import Tensor

MAX_SECONDS = 3600
MAX_SKIPPED = 20  # recordings of a corpus that may be unusable
_OGG_PAGE, _OGG_LAST = 65_307, 4  # most bytes of a page; the flag of a stream's last page (RFC 3533)
_UNKNOWN_SIZE = 0x7FFFFF00  # sizes from here on are not known in fact
SILENCE = 1e-4  # -80 dB: a recording that nowhere reaches this holds nothing to encode


def load_audio(raw: Any, sample_rate: int | None = None) -> tuple[Tensor, int]:
    """A raw recording -> (float32 samples (T,), their rate in Hz): channels averaged, resampled to `sample_rate`.

    Samples without a rate are taken to be at `sample_rate`. Where the average of the channels is silent although a
    channel is not, as in opposite stereo channels, the loudest channel is taken.

    Raises InputError, naming the file, for what is missing, unreadable, cut off, longer than MAX_SECONDS (seen from the
    header, before anything is decoded), empty or of one sample, silent, or holds NaN or infinity.
    """
    where = _name(raw)
    try:
        samples, rate = _read(raw, sample_rate)
        waveform = _mono(samples)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    if sample_rate is None or sample_rate == rate:
        return waveform, rate
    return resample(waveform, rate, sample_rate), sample_rate


def load_sounds(
    raws: Iterable[tuple[str, Any]], sample_rate: int, max_skipped: int = MAX_SKIPPED
) -> tuple[dict[str, Tensor], list[str]]:
    """(name, raw recording) of a corpus -> name -> samples (T,), and one line for each recording that cannot be used.

    Raises InputError when more than `max_skipped` of them cannot be used, or none can.
    """
    sounds, skipped = {}, []
    for name, raw in raws:
        try:
            sounds[name] = load_audio(raw, sample_rate)[0]
        except InputError as error:
            skipped.append(str(error) if name in str(error) else f"{name}: {error}")
            if len(skipped) > max_skipped:
                last = skipped[-1]
                raise InputError(f"more than {max_skipped} recordings cannot be used; the last: {last}") from error
    if not sounds:
        raise InputError("no recording can be used" + (f"; {skipped[-1]}" if skipped else ""))
    return sounds, skipped


def resample(waveform: Tensor, rate: int, new_rate: int) -> Tensor:
    """(..., T) at `rate` Hz -> (..., ceil(T * new_rate / rate)), band-limited by a windowed sinc (torchaudio)."""
    import torchaudio

    return torchaudio.functional.resample(waveform, rate, new_rate)


def save_audio(file: str | Path, waveform: Tensor, sample_rate: int) -> None:
    """(T,) in [-1, 1] as a 16-bit file of the kind its suffix says; raises InputError where that cannot be written."""
    import soundfile

    try:
        soundfile.write(str(file), waveform.detach().cpu().clamp(-1, 1).numpy(), sample_rate, subtype=_subtype(file))
    except (soundfile.LibsndfileError, TypeError, ValueError, OSError) as error:
        raise InputError(f"{file}: cannot be written as sound ({one_line(error)}); .wav, .flac or .ogg can") from error


def _subtype(file: str | Path) -> str | None:
    return "PCM_16" if Path(file).suffix.lower() in (".wav", ".flac") else None


def _name(raw: Any) -> str:
    if isinstance(raw, str) or hasattr(raw, "read_bytes"):
        return str(raw)
    return f"recording of {len(raw)} bytes" if isinstance(raw, (bytes, bytearray)) else "the recording"


def _read(raw: Any, sample_rate: int | None) -> tuple[Tensor, int]:
    """Samples (channels, T) or (T,) of any type, and their rate."""
    import numpy as np
    import torch

    if isinstance(raw, (bytes, bytearray)):
        return _decode(io.BytesIO(raw))
    if isinstance(raw, (str, Path)):
        if not Path(raw).is_file():
            raise InputError("no such sound file")
        return _decode(str(raw))
    if hasattr(raw, "read_bytes"):
        try:
            return _decode(io.BytesIO(raw.read_bytes()))
        except FileNotFoundError:
            raise InputError("no such sound file") from None
    samples, rate = raw if isinstance(raw, (tuple, list)) and len(raw) == 2 else (raw, sample_rate)
    if isinstance(samples, np.ndarray) and samples.dtype.kind in "fiu":
        samples = torch.from_numpy(np.ascontiguousarray(samples))
    if not isinstance(samples, torch.Tensor):
        raise InputError(f"cannot read sound from {type(samples).__name__}; give a path, bytes or (samples, rate)")
    if not isinstance(rate, int) or rate < 1:
        raise InputError(f"sample rate must be a whole number of Hz, got {rate}; give (samples, rate)")
    return samples, rate


def _decode(file: Any) -> tuple[Tensor, int]:
    import soundfile
    import torch

    _refuse_cut_off(file)
    try:
        with soundfile.SoundFile(file) as sound:
            if sound.frames > MAX_SECONDS * sound.samplerate:
                seconds = sound.frames / sound.samplerate
                raise InputError(f"refused before decoding: {seconds:.0f} s is longer than {MAX_SECONDS}; cut it")
            return torch.from_numpy(sound.read(dtype="float32", always_2d=True).T), sound.samplerate
    except (soundfile.LibsndfileError, RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"not sound that can be read ({one_line(error)})") from error


def _refuse_cut_off(file: Any) -> None:
    """InputError for a file that ends before its sound does; libsndfile would read what is there without a word."""
    if isinstance(file, str):
        with open(file, "rb") as opened:
            _refuse_cut_off(opened)
        return
    start, size = file.read(12), file.seek(0, os.SEEK_END)
    if start[:4] == b"RIFF" and start[8:] == b"WAVE":
        missing = _missing_of_wav(file, size)
        if missing:
            raise InputError(f"is cut off: {missing} bytes of its sound are missing; copy it again")
    elif start[:4] == b"OggS":
        file.seek(max(0, size - _OGG_PAGE))
        end = file.read()
        if not _ends_in_last_page(end[end.rfind(b"OggS") :]):
            raise InputError("is cut off: its last page is missing; copy it again")
    file.seek(0)


def _ends_in_last_page(page: bytes) -> bool:
    """Whether bytes from the last "OggS" on are the whole last page of a stream."""
    if len(page) < 27 or not page[5] & _OGG_LAST:
        return False
    count = page[26]
    return len(page) >= 27 + count + sum(page[27 : 27 + count])


def _missing_of_wav(file: Any, size: int) -> int:
    """Bytes that the chunk `data` of a WAV file should have and that are not there.

    Programs that write to a pipe cannot know the size, and say 0, or all bits set, or nearly so.
    """
    at = 12
    while at + 8 <= size:
        file.seek(at)
        name, length = file.read(4), int.from_bytes(file.read(4), "little")
        if name == b"data":
            return max(0, at + 8 + length - size) if length < _UNKNOWN_SIZE else 0
        at += 8 + length + length % 2
    return 0


def _mono(samples: Tensor) -> Tensor:
    """(T,) or (channels, T) -> float32 (T,), held to what an encoder can use."""
    if samples.ndim not in (1, 2):
        raise InputError(f"samples must be (T,) or (channels, T), got {tuple(samples.shape)}")
    if samples.ndim == 2 and samples.shape[0] > samples.shape[1] > 0:
        raise InputError(f"samples {tuple(samples.shape)} have more channels than samples; give (channels, T)")
    waveform = _floats(samples)
    if waveform.ndim == 2:
        waveform = _one_channel(waveform)
    if len(waveform) < 2:
        raise InputError(f"holds {len(waveform)} samples; at least 2 are needed")
    if not waveform.isfinite().all():
        raise InputError("holds NaN or infinity; remove those samples")
    if waveform.abs().max() < SILENCE:
        raise InputError(f"is silent: no sample reaches {SILENCE:g} of full scale")
    return waveform


def _one_channel(channels: Tensor) -> Tensor:
    """(channels, T) -> (T,): their average; where that is silent and they are not, the channel of most energy."""
    average = channels.mean(0)
    if not channels.numel() or average.abs().max() >= SILENCE:
        return average
    return channels[channels.square().sum(1).argmax()]


def _floats(samples: Tensor) -> Tensor:
    import torch

    if samples.is_floating_point():
        return samples.float()
    if samples.dtype not in (torch.int16, torch.int32):
        raise InputError(f"samples of {samples.dtype} have no known scale; give floats, or int16 or int32")
    return (samples.double() / -torch.iinfo(samples.dtype).min).float()
