"""JSON that others wrote: what is wrong with it is one line that names the file."""

import pytest

from mot_gen.errors import InputError
from mot_gen.files import json_files


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[" * 100_000 + b"]" * 100_000, "nested too deep"),
        (b'{"a": 1', "not valid JSON"),
        (b'"\xff"', "not valid JSON"),
        (b"1" * 10_000, "not valid JSON"),
        (b"", "not valid JSON"),
    ],
)
def test_what_is_no_json_is_one_line(content, reason, tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    for call in (lambda: json_files.parse(content, str(path)), lambda: json_files.read(path)):
        with pytest.raises(InputError, match=rf"a\.json: .*{reason}") as error:
            call()
        assert "\n" not in str(error.value)


def test_a_byte_order_mark_is_dropped():
    assert json_files.parse(b'\xef\xbb\xbf{"a": 1}', "x") == json_files.parse('\ufeff{"a": 1}', "x") == {"a": 1}


def test_a_line_without_an_end_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(json_files, "MAX_BYTES", 10)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"12345\n" + b"1" * 100)
    with pytest.raises(InputError, match=r"a\.jsonl:2: the line is longer than 10 bytes"):
        list(json_files.lines(path))
