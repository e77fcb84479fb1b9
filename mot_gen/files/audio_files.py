"""Any recording into one channel of samples, and back: load_audio, load_sounds, resample, save_audio.

A raw recording is a path (or what reads as one, such as a UPath) or the bytes of a file that soundfile reads (WAV,
FLAC, OGG, MP3), a pair (samples, rate in Hz), the same by name as datasets and transformers have it ({"array" or "raw",
"sampling_rate"}, or {"bytes", "path"}), or samples alone where the rate is known. Samples are a tensor or an
array (T,) or (channels, T), floats in about [-1, 1] or integers of 16 or 32 bits.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mot_gen.errors import InputError, one_line, require

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
    wanted = sample_rate or rate
    if wanted != rate:
        waveform = resample(waveform, rate, wanted)
    return waveform, wanted


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
            line = str(error) if name in str(error) else f"{name}: {error}"
            skipped.append(line)
            require(len(skipped) <= max_skipped, f"more than {max_skipped} recordings cannot be used; the last: {line}")
    require(sounds, "; ".join(["no recording can be used", *skipped[-1:]]))
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

    raw = _by_name(raw) if isinstance(raw, Mapping) else raw
    file = _file_of(raw)
    if file is not None:
        return _decode(file)
    given = isinstance(raw, (tuple, list)) and len(raw) == 2
    samples, rate = raw if given else (raw, sample_rate)
    if isinstance(samples, np.ndarray) and samples.dtype.kind in "fiu":
        samples = torch.from_numpy(np.ascontiguousarray(samples))
    kind = type(samples).__name__
    require(isinstance(samples, torch.Tensor), f"cannot read sound from {kind}; give a path, bytes or (samples, rate)")
    number = rate if isinstance(rate, int) else 0
    require(number >= 1, f"sample rate must be a whole number of Hz, got {rate}; give (samples, rate)")
    return samples, number


def _by_name(raw: Mapping[str, Any]) -> Any:
    """The pair (samples, rate), the bytes or the path that a recording by name holds; itself where it holds none."""
    samples = raw.get("array", raw.get("raw"))
    if samples is not None:
        return samples, raw.get("sampling_rate")
    return raw.get("bytes") or raw.get("path") or raw


def _file_of(raw: Any) -> Any:
    """What soundfile opens: a path as it is, the bytes of a file; None where a recording is samples already."""
    if isinstance(raw, (bytes, bytearray)):
        return io.BytesIO(raw)
    if isinstance(raw, (str, Path)):
        require(Path(raw).is_file(), "no such sound file")
        return str(raw)
    if not hasattr(raw, "read_bytes"):
        return None
    try:
        return io.BytesIO(raw.read_bytes())
    except FileNotFoundError:
        raise InputError("no such sound file") from None


def _decode(file: Any) -> tuple[Tensor, int]:
    """Samples (channels, T) and rate of a file, of which the length is looked at first."""
    import soundfile
    import torch

    _refuse_cut_off(file)
    try:
        with soundfile.SoundFile(file) as sound:
            seconds = sound.frames / sound.samplerate
            too_long = f"refused before decoding: {seconds:.0f} s is longer than {MAX_SECONDS}; cut it"
            require(seconds <= MAX_SECONDS, too_long)
            return torch.from_numpy(sound.read(dtype="float32", always_2d=True).T), sound.samplerate
    except InputError:
        raise
    except (soundfile.LibsndfileError, RuntimeError, ValueError) as error:
        raise InputError(f"not sound that can be read ({one_line(error)})") from error


def _refuse_cut_off(file: Any) -> None:
    """InputError for a file that ends before its sound does; libsndfile would read what is there without a word."""
    if isinstance(file, str):
        with open(file, "rb") as opened:
            _refuse_cut_off(opened)
        return
    start, size = file.read(12), file.seek(0, os.SEEK_END)
    kind = start[:4] + start[8:]
    if kind == b"RIFFWAVE":
        missing = _missing_of_wav(file, size)
        require(not missing, f"is cut off: {missing} bytes of its sound are missing; copy it again")
    elif kind.startswith(b"OggS"):
        file.seek(max(0, size - _OGG_PAGE))
        end = file.read()
        whole = _ends_in_last_page(end[end.rfind(b"OggS") :])
        require(whole, "is cut off: its last page is missing; copy it again")
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
    shape = tuple(samples.shape)
    require(samples.ndim in (1, 2), f"samples must be (T,) or (channels, T), got {shape}")
    wide = samples.ndim == 2 and shape[0] > shape[1] > 0
    require(not wide, f"samples {shape} have more channels than samples; give (channels, T), such as samples.T")
    waveform = _floats(samples)
    if waveform.ndim == 2:
        waveform = _one_channel(waveform)
    require(len(waveform) >= 2, f"holds {len(waveform)} samples; at least 2 are needed")
    require(waveform.isfinite().all(), "holds NaN or infinity; remove those samples")
    require(waveform.abs().max() >= SILENCE, f"is silent: no sample reaches {SILENCE:g} of full scale")
    return waveform


def _one_channel(channels: Tensor) -> Tensor:
    """(channels, T) -> (T,): their average; where that is silent and they are not, the channel of most energy."""
    average = channels.mean(0)
    if not channels.numel() or average.abs().max() >= SILENCE:
        return average
    return channels[channels.square().sum(1).argmax()]


def _floats(samples: Tensor) -> Tensor:
    """Samples as floats, whole numbers scaled to [-1, 1]."""
    import torch

    if samples.is_floating_point():
        return samples.float()
    known = samples.dtype in (torch.int16, torch.int32)
    require(known, f"samples of {samples.dtype} have no known scale; give floats, or int16 or int32")
    return (samples.double() / -torch.iinfo(samples.dtype).min).float()
