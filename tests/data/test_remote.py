"""Records and media at addresses: the same samples as of local files, read in ranges; what is missing is one line."""

import io
import json
import subprocess
import sys
import tarfile
from itertools import islice

import pytest
from PIL import Image
from text_as_bytes import Bytes

from mot_gen.data.loader import Loader
from mot_gen.data.records import open_records
from mot_gen.datasets.records import load
from mot_gen.errors import InputError
from mot_gen.recipes.sections import Data, Training
from mot_gen.tokenizers.image_patch import PatchImageTokenizer

pytest.importorskip("upath", reason="the extra remote")
fsspec = pytest.importorskip("fsspec")


def png(grey: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (4, 4), grey).save(buffer, "png")
    return buffer.getvalue()


def tar(count: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for i in range(count):
            for suffix, content in (("png", png(i)), ("txt", f"caption {i}".encode())):
                info = tarfile.TarInfo(f"{i:02d}.{suffix}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def parquet(count: int) -> bytes:
    import pyarrow
    import pyarrow.parquet

    rows = [{"id": f"{i}", "image": {"bytes": png(i), "path": None}, "caption": f"c {i}"} for i in range(count)]
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer, row_group_size=4)
    return buffer.getvalue()


@pytest.fixture
def both(tmp_path):
    """The same files in a local folder and at an address."""
    lines = "\n".join(json.dumps({"image": f"sub/{i}.png", "captions": [f"cäption {i}"]}) for i in range(9))
    files = {"a.jsonl": lines.encode(), "b.tar": tar(9), "c.parquet": parquet(9)}
    files |= {f"sub/{i}.png": png(i) for i in range(9)} | {f"sub/{i}.txt": f"caption {i}".encode() for i in range(9)}
    memory = fsspec.filesystem("memory")
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
        memory.pipe(f"/{tmp_path.name}/{name}", content)
    yield tmp_path, f"memory://{tmp_path.name}"
    memory.rm(f"/{tmp_path.name}", recursive=True)


def spans(path, **options) -> list:
    samples = load(Data(records=[str(path)], held_out=0)).train
    tokenizers = {"text": Bytes(), "image": PatchImageTokenizer(image_size=4, patch_size=2, color_channels=1)}
    stream = Loader(samples, tokenizers, Data(), Training(row_length=64, rows=2, **options))
    found = [[[s.values.tolist() for s in doc] for doc in row] for rows in islice(stream, 9) for row in rows]
    stream.close()
    assert not stream.skipped
    return found


@pytest.mark.parametrize("name", ["a.jsonl", "b.tar", "c.parquet", "sub"])
def test_far_records_are_the_local_ones(both, name):
    here, there = both
    assert [s.id for s in open_records(f"{there}/{name}")] == [s.id for s in open_records(here / name)]
    assert spans(f"{there}/{name}", workers=2) == spans(here / name)


def test_a_local_manifest_may_name_far_media(both):
    here, there = both
    (here / "far.jsonl").write_text(json.dumps({"image": f"{there}/sub/3.png", "caption": "c"}))
    assert spans(here / "far.jsonl")


def test_texts_of_far_files_are_fetched_once(both, monkeypatch):
    memory, asked = type(fsspec.filesystem("memory")), []
    cat_file = memory.cat_file

    def counted(self, path, *given, **options):
        asked.append(path)
        return cat_file(self, path, *given, **options)

    monkeypatch.setattr(memory, "cat_file", counted)
    for name in ("a.jsonl", "b.tar"):
        source = open_records(f"{both[1]}/{name}")
        assert [source.outline(i).captions for i in range(9)] and not asked
    assert source[4].image == png(4) and len(asked) == 1


def test_what_is_not_there_or_not_known_is_one_line(both):
    for name, reason in (
        (f"{both[1]}/none.jsonl", "no such file or folder"),
        ("nosuchprotocol://a/b.jsonl", "nosuchprotocol"),
        (f"{both[1]}/sub/1.png", "no known kind of records"),
    ):
        with pytest.raises(InputError, match=reason) as caught:
            open_records(name)
        assert name in str(caught.value) and "\n" not in str(caught.value)


def test_local_paths_pay_nothing():
    code = "import sys; from mot_gen.data.remote import place; place('a.jsonl'); print('upath' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
