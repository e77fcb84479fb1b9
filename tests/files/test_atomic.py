"""Files and folders are whole or not there: after an error, on a full disk, and while others look."""

import os
import resource
import signal
import stat
import subprocess
import sys
import threading

import pytest

from mot_gen.errors import InputError
from mot_gen.files import atomic
from mot_gen.files.atomic import Unwritable, write_bytes, write_json, write_text, writing, writing_folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_written_with_its_folder(tmp_path, durable):
    write_text(tmp_path / "a" / "b.txt", "é\n", durable)
    assert (tmp_path / "a" / "b.txt").read_bytes() == "é\n".encode()
    write_json(tmp_path / "a" / "b.txt", {"x": "é"})
    assert (tmp_path / "a" / "b.txt").read_text("utf-8") == '{\n  "x": "é"\n}\n'
    assert names(tmp_path / "a") == ["b.txt"]


def test_an_error_leaves_what_was_there(tmp_path):
    write_bytes(tmp_path / "a.bin", b"old")
    with pytest.raises(RuntimeError), writing(tmp_path / "a.bin") as part:
        part.write_bytes(b"half")
        assert part.suffix == ".bin" and part.parent == tmp_path
        raise RuntimeError
    assert names(tmp_path) == ["a.bin"] and (tmp_path / "a.bin").read_bytes() == b"old"


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(Unwritable, match=r"a\.bin: cannot be written: File too large") as error:
            write_bytes(tmp_path / "a.bin", bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)
    assert isinstance(error.value, InputError) and isinstance(error.value, OSError)
    assert not names(tmp_path)


def test_a_place_that_is_none_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"x\.txt: cannot be written: File exists"):
        write_text(tmp_path / "file" / "x.txt", "")
    with pytest.raises(InputError, match="cannot be written"), writing_folder(tmp_path / "file" / "x"):
        pass


def test_a_link_stays_a_link_and_a_device_a_device(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    write_text(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink() and (tmp_path / "real.txt").read_text() == "new"
    code = "from mot_gen.files.atomic import write_text; write_text('/dev/stdout', 'hello')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "hello"


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o022)
    try:
        write_text(tmp_path / "a", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


def test_threads_that_write_one_file_leave_one_whole(tmp_path):
    contents = [bytes([number]) * 100_000 for number in range(8)]
    threads = [threading.Thread(target=write_bytes, args=(tmp_path / "a", content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a").read_bytes() in contents and names(tmp_path) == ["a"]


@pytest.mark.parametrize("at_once", [True, False])
def test_a_folder_takes_the_place_of_the_old_one(tmp_path, monkeypatch, at_once):
    if not at_once:
        monkeypatch.setattr(atomic.ctypes, "CDLL", lambda name: object())
    for text in ("old", "new"):
        with writing_folder(tmp_path / "model") as part:
            (part / "weights").write_text(text)
            if text == "new":
                assert (tmp_path / "model" / "weights").read_text() == "old"
        assert (tmp_path / "model" / "weights").read_text() == text
    with pytest.raises(RuntimeError), writing_folder(tmp_path / "model"):
        raise RuntimeError
    assert (tmp_path / "model" / "weights").read_text() == "new" and names(tmp_path) == ["model"]


def test_a_reader_always_finds_a_folder_that_is_replaced(tmp_path):
    """While a model is exported anew, whoever looks for its folder finds the old one or the new one."""
    model, missing, ended = tmp_path / "model", [], threading.Event()

    def look():
        while not ended.is_set():
            missing.extend([] if model.is_dir() else ["gone"])

    for number in range(200):
        with writing_folder(model) as part:
            (part / "a").write_text(str(number))
        if not number:
            reader = threading.Thread(target=look)
            reader.start()
    ended.set()
    reader.join()
    assert not missing and (model / "a").read_text() == "199"
