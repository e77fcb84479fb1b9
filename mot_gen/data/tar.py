"""WebDataset shards: TarShard, the samples of a tar file.

The members of a sample have one name up to its first dot, which is its key: `key.jpg` and `key.txt`, or `key.json`, a
record, and what it names. Both are read together as img2dataset writes them, where `key.json` repeats the caption of
`key.txt`. Members are read where they lie and never extracted, so that a name such as ../x reaches no file.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from typing import Any

from mot_gen.data.notices import Notices
from mot_gen.data.parsing import CAPTIONS, parse_record
from mot_gen.data.remote import Ranges, Spool, is_far
from mot_gen.data.samples import Sample
from mot_gen.data.sources import Source
from mot_gen.data.texts import MAX_BYTES, clean_text, decode_text
from mot_gen.errors import InputError, nearest
from mot_gen.files import json_files
from mot_gen.files.suffixes import PICTURES, SOUNDS, UNREAD_PICTURES, is_hidden

TEXTS = ("json", "txt", "caption", "cls")  # suffixes of the members that are read for outlines
Members = dict[str, tuple[int, int]]  # suffix -> where it begins and how many bytes it has
Medium = Callable[[Members, str], bytes | None]


class TarShard(Source):
    """A WebDataset shard."""

    def _scan(self) -> None:
        self._samples: list[Members] = []
        self._names: list[str] = []
        self._last: dict[str, int] = {}  # key -> the number of the last sample of that name
        self._media = Ranges(self.path)
        self._spool = Spool() if is_far(self.path) else None
        with self.path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                self._member(archive, member)
            self._check_end(file, archive.offset)
        self._parse_all()

    def _parse_all(self) -> None:
        """Keep the samples that can be read."""
        samples, names = self._samples, self._names
        self._samples, self._names = [], []
        self._last.clear()
        for members, name in zip(samples, names):
            try:
                sample = self._parse(members, name, _unread, self._notices)
            except InputError as error:
                self._broken.note(str(error))
                continue
            sizes = sorted((suffix, size) for suffix, (_, size) in members.items())
            texts = b"".join(self._bytes(members, suffix) for suffix in TEXTS if suffix in members)
            self._add(sample, repr(sizes).encode() + texts)
            self._samples.append(members)
            self._names.append(name)

    def _member(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        if is_hidden(member.name):
            self._notices.note("hidden members, which are left out", member.name)
            return
        if not member.isfile() or member.issparse():
            if not member.isdir():
                self._notices.note("members that are no regular files, which are left out", member.name)
            return
        folder, _, name = member.name.rpartition("/")
        stem, _, suffix = name.partition(".")
        suffix = suffix.lower()
        start = member.offset_data
        if suffix in TEXTS and self._spool is not None:
            start = self._spool.add(self._fetched(archive, member))
        self._sample_of(f"{folder}/{stem}".lstrip("/"), suffix)[suffix] = (start, member.size)

    def _fetched(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
        if member.size > MAX_BYTES:
            raise InputError(f"{self.path}: {member.name}: a text of {member.size} bytes is longer than {MAX_BYTES}")
        file = archive.extractfile(member)
        assert file is not None  # it is a regular file
        return file.read()

    def _sample_of(self, key: str, suffix: str) -> Members:
        """The sample that a member belongs to: the last one of that name, or a new one."""
        number = self._last.get(key)
        if number is not None and suffix not in self._samples[number]:
            if number != len(self._samples) - 1:
                self._notices.note("members that lie apart from the others of their sample", f"{key}.{suffix}")
            return self._samples[number]
        if number is not None:
            self._notices.note("samples of a name that came before", key)
        self._last[key] = len(self._samples)
        self._names.append(key)
        self._samples.append({})
        return self._samples[-1]

    def _check_end(self, file: Any, end: int) -> None:
        """An archive ends with blocks of zeros. Python's tarfile takes damage in the middle for an end, silently."""
        file.seek(end)
        block = file.read(tarfile.BLOCKSIZE)
        if len(block) < tarfile.BLOCKSIZE:
            self._notices.note("archives without their end, which are perhaps cut off", str(self.path))
        elif any(block):
            what = "archives that are damaged, of which the rest is not read"
            self._notices.note(what, f"{self.path}, from byte {end:,} on")

    def _bytes(self, members: Members, suffix: str) -> bytes:
        start, size = members[suffix]
        if suffix in TEXTS and self._spool is not None:
            return self._spool.read(start, size)
        return self._media.read(start, size)

    def _text(self, members: Members, suffix: str, where: str) -> bytes:
        size = members[suffix][1]
        if size > MAX_BYTES:
            raise InputError(f"{where}.{suffix}: a text of {size} bytes is longer than {MAX_BYTES}")
        return self._bytes(members, suffix)

    def sample(self, index: int) -> Sample:
        return self._parse(self._samples[index], self._names[index], self._bytes)

    def outline(self, index: int) -> Sample:
        return self._parse(self._samples[index], self._names[index], _unread)

    def _parse(self, members: Members, key: str, medium: Medium, notices: Notices | None = None) -> Sample:
        where = f"{self.path}: {key}"

        def resolve(value: Any, field: str) -> bytes | None:
            suffix = str(value).removeprefix(f"{key.rpartition('/')[2]}.").lower()
            if suffix not in members:
                raise InputError(f"{field}: the sample has no member {value!r:.60}{nearest(suffix, members)}")
            return medium(members, suffix)

        record = self._record(members, where, notices)
        if not {"image", "messages", "content"} & record.keys():
            _add_image(record, members, where, notices)
        return parse_record(record, where, f"{self.path.name}:{key}", resolve, notices)

    def _record(self, members: Members, where: str, notices: Notices | None) -> dict[str, Any]:
        """What `key.json` says, with the text of `key.txt`, `.caption` or `.cls`."""
        record: Any = {}
        if "json" in members:
            record = json_files.parse(self._text(members, "json", where), where)
        if not isinstance(record, dict):
            raise InputError(f"{where}: a record is an object with image and caption, messages, content or text")
        for suffix in TEXTS[1:]:
            if suffix in members:
                text = decode_text(self._text(members, suffix, where), f"{where}.{suffix}", notices)
                _add_text(record, text, f"{where}.{suffix}")
                break
        return record


def _unread(members: Members, suffix: str) -> None:
    """In the place of a medium, nothing."""


def _add_text(record: dict[str, Any], text: str, where: str) -> None:
    """Put the text of a member into the record, unless the record has it already."""
    if not text:
        raise InputError(f"{where}: holds no text")
    for name in CAPTIONS:
        given = record.get(name)
        if given is None:
            continue
        known = given if isinstance(given, list) else [given]
        if text not in [clean_text(each, where).strip() for each in known if isinstance(each, str)]:
            raise InputError(f"{where}: says another thing than {name} of the .json beside it; leave one out")
        return
    record["text"] = text


def _add_image(record: dict[str, Any], members: Members, where: str, notices: Notices | None) -> None:
    """Name the picture that a record is about. InputError where a medium would be dropped and its text kept."""
    images = [suffix for suffix in members if f".{suffix}" in PICTURES]
    others = [suffix for suffix in members if suffix not in TEXTS and suffix not in images]
    if images:
        record["image"] = images[0]
        others += images[1:]
    else:
        for suffix in others:
            _refuse_lost_medium(suffix, where)
    if notices is not None:
        for suffix in others:
            notices.note(f"members {suffix}, which no record names", f"{where}.{suffix}")


def _refuse_lost_medium(suffix: str, where: str) -> None:
    last = f".{suffix.rpartition('.')[2]}"
    if f".{suffix}" in UNREAD_PICTURES:
        raise InputError(f"{where}.{suffix}: pictures of this kind are not read; convert it to PNG or JPEG")
    if f".{suffix}" in SOUNDS:
        raise InputError(f"{where}.{suffix}: sound needs a .json beside it that says what comes first, sound or text")
    if "." in suffix and (last in PICTURES or last[1:] in TEXTS):
        raise InputError(f"{where}.{suffix}: the key of a sample ends at its first dot; take the dots out of the names")
