"""Files whose bytes were changed at random: every reader gives samples or an error of one line, and nothing else."""

import io
import json
import random
import tarfile

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile
from PIL import Image

from mot_gen.data.records import open_records
from mot_gen.data.samples import UNUSABLE
from mot_gen.errors import InputError
from mot_gen.files.audio_files import load_audio
from mot_gen.files.image_files import header, load_image


def picture(kind="PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(buffer, kind)
    return buffer.getvalue()


def sound(kind) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.sin(np.arange(4000) / 9) / 2, 8000, format=kind)
    return buffer.getvalue()


def jsonl() -> bytes:
    tokens = {"tokens": [1, 2, 3, 4], "grid": [2, 2], "fingerprint": "f"}
    parts = [{"type": "text", "text": "x"}, {"type": "audio", "audio": "a.wav", "loss": False}]
    rows = [{"id": "a", "image": "x.png", "caption": "c"}, {"content": parts}, {"image": tokens, "captions": ["a"]}]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def tar() -> bytes:
    members = {"0.png": picture(), "0.txt": b"zero", "1.jpg": picture(), "1.json": b'{"caption": "one"}'}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def parquet() -> bytes:
    rows = [{"id": str(i), "image": {"bytes": picture(), "path": None}, "caption": f"c{i}"} for i in range(20)]
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer, row_group_size=6)
    return buffer.getvalue()


def changed(content: bytes, rng: random.Random) -> bytes:
    """Bytes replaced, taken out, put in or cut off at the end."""
    found = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        at = rng.randrange(len(found)) if found else 0
        how = rng.random()
        if how < 0.6 and found:
            found[at] = rng.randrange(256)
        elif how < 0.8:
            del found[at:]
        elif how < 0.9:
            del found[at : at + rng.randrange(1, 600)]
        else:
            found[at:at] = rng.randbytes(rng.randrange(1, 40))
    return bytes(found)


def one_line(error: Exception) -> bool:
    return "\n" not in str(error)


@pytest.mark.parametrize(("make", "times"), [(jsonl, 60), (tar, 60), (parquet, 25)])
def test_broken_records_are_refused_or_left_out(make, times, tmp_path):
    content, rng = make(), random.Random(0)
    path = tmp_path / f"a.{make.__name__}"
    read = 0
    for _ in range(times):
        path.write_bytes(changed(content, rng))
        try:
            source = open_records(path)
        except InputError as error:
            assert one_line(error), error
            continue
        assert all("\n" not in line for line in source.broken.samples)
        for index in range(len(source)):
            for get in (source.__getitem__, source.outline):
                try:
                    read += get(index).id is not None
                except UNUSABLE as error:
                    assert one_line(error), error
    assert read > 20


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "QOI", "TGA", "ICO", "PCX", "PPM"]
)
def test_a_broken_picture_is_refused_in_one_line(kind):
    content, rng = picture(kind), random.Random(0)
    for _ in range(40):
        broken = changed(content, rng)
        for read in (load_image, header):
            try:
                read(broken)
            except InputError as error:
                assert one_line(error), error


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG"])
def test_a_broken_sound_is_refused_in_one_line(kind):
    content, rng = sound(kind), random.Random(0)
    for _ in range(40):
        try:
            load_audio(changed(content, rng))
        except InputError as error:
            assert one_line(error), error
