"""WebDataset shards: TarShard, the samples of a tar file.

The members of a sample have one name up to its first dot, which is its key: `key.jpg` or `key.wav` and `key.txt`, or
`key.json`, a record, and what it names. Both are read together as img2dataset writes them, where `key.json` repeats the
caption of `key.txt`. Members are read where they lie and never extracted, so that a name such as ../x reaches no file.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Sequence
from typing import Any

from mot_gen.data.notices import Notices, kept
from mot_gen.data.parsing import CAPTIONS, NO_OBJECT, parse_record
from mot_gen.data.remote import Ranges, Spool, is_far
from mot_gen.data.samples import Sample
from mot_gen.data.sources import Source
from mot_gen.data.texts import MAX_BYTES, clean_text, decode_text
from mot_gen.errors import InputError, nearest, require
from mot_gen.files import json_files
from mot_gen.files.suffixes import PICTURES, SOUNDS, UNREAD_PICTURES, is_hidden, suffix_of

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
            if not any(map(_is_read, members)):
                _note_members(self._notices, sorted(members), name, "which are not read")
                continue
            with self._broken.catching():
                self._add(self._parse(members, name, _unread, self._notices), self._content_of(members))
                self._samples.append(members)
                self._names.append(name)

    def _content_of(self, members: Members) -> bytes:
        """What tells a sample from others: the sizes of its members, and its texts."""
        sizes = sorted((suffix, size) for suffix, (_, size) in members.items())
        texts = [self._bytes(members, suffix) for suffix in TEXTS if suffix in members]
        return repr(sizes).encode() + b"".join(texts)

    def _member(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Note where a member lies, under its sample; or why it is left out."""
        if is_hidden(member.name):
            self._notices.note("hidden members, which are left out", member.name)
            return
        if member.isdir():
            return
        if not member.isfile() or member.issparse():
            self._notices.note("members that are no regular files, which are left out", member.name)
            return
        folder, _, name = member.name.rpartition("/")
        stem, _, suffix = name.partition(".")
        suffix = suffix.lower()
        if not suffix:
            self._notices.note("members without a suffix, which are not read", member.name)
            return
        members = self._sample_of(f"{folder}/{stem}".lstrip("/"), suffix)
        members[suffix] = self._start(archive, member, suffix), member.size

    def _start(self, archive: tarfile.TarFile, member: tarfile.TarInfo, suffix: str) -> int:
        """Where a member begins: in the archive, or in the spool if it is a text of a far archive."""
        if self._spool is None or suffix not in TEXTS:
            return member.offset_data
        return self._spool.add(self._fetched(archive, member))

    def _fetched(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
        """The bytes of a text in a far archive, whose length is bounded."""
        too_long = f"{self.path}: {member.name}: a text of {member.size} bytes is longer than {MAX_BYTES}"
        require(member.size <= MAX_BYTES, too_long)
        file = archive.extractfile(member)
        assert file is not None  # it is a regular file
        return file.read()

    def _sample_of(self, key: str, suffix: str) -> Members:
        """The sample that a member belongs to: the last one of that name, or a new one."""
        number = self._last.get(key)
        if number is None:
            return self._begun(key)
        members = self._samples[number]
        if suffix in members:
            self._notices.note("samples of a name that came before", key)
            return self._begun(key)
        if members is not self._samples[-1]:
            self._notices.note("members that lie apart from the others of their sample", f"{key}.{suffix}")
        return members

    def _begun(self, key: str) -> Members:
        """A new sample, which has no member yet."""
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
        texts = self._spool or self._media
        source = texts if suffix in TEXTS else self._media
        return source.read(*members[suffix])

    def _text(self, members: Members, suffix: str, where: str) -> bytes:
        size = members[suffix][1]
        require(size <= MAX_BYTES, f"{where}.{suffix}: a text of {size} bytes is longer than {MAX_BYTES}")
        return self._bytes(members, suffix)

    def sample(self, index: int) -> Sample:
        return self._parse(self._samples[index], self._names[index], self._bytes)

    def outline(self, index: int) -> Sample:
        return self._parse(self._samples[index], self._names[index], _unread)

    def _parse(self, members: Members, key: str, medium: Medium, notices: Notices | None = None) -> Sample:
        """The members of a sample -> the sample. medium: reads a member, or stands for it."""
        where = f"{self.path}: {key}"
        named: set[str] = set()

        def resolve(value: Any, field: str) -> bytes | None:
            suffix = str(value).removeprefix(f"{key.rpartition('/')[2]}.").lower()
            if suffix not in members:
                raise InputError(f"{field}: the sample has no member {value!r:.60}{nearest(suffix, members)}")
            named.add(suffix)
            return medium(members, suffix)

        record = self._record(members, where, notices)
        if not {"image", "audio", "messages", "content"} & record.keys():
            _add_medium(record, members, where)
        sample = parse_record(record, where, f"{self.path.name}:{key}", resolve, notices)
        _note_members(kept(notices), sorted(members.keys() - {*TEXTS, *named}), where, "which no record names")
        return sample

    def _record(self, members: Members, where: str, notices: Notices | None) -> dict[str, Any]:
        """What `key.json` says, with the text of `key.txt`, `.caption` or `.cls`."""
        record: Any = {}
        if "json" in members:
            record = json_files.parse(self._text(members, "json", where), where)
        require(isinstance(record, dict), f"{where}: {NO_OBJECT}")
        texts = [suffix for suffix in TEXTS[1:] if suffix in members]
        if texts:
            first, others = texts[0], texts[1:]
            _note_members(kept(notices), others, where, f"which are not read since a .{first} is there")
            of_text = f"{where}.{first}"
            text = decode_text(self._text(members, first, where), of_text, notices)
            _add_text(record, text, of_text)
        return record


def _is_read(suffix: str) -> bool:
    """Whether a member may be a text or a medium, also one whose key has dots in it, which is then refused by name."""
    texts = {f".{text}" for text in TEXTS}
    return suffix_of(f"key.{suffix}") in PICTURES.union(UNREAD_PICTURES, SOUNDS, texts)


def _note_members(notices: Notices, suffixes: Sequence[str], key: str, why: str) -> None:
    """Count members that are left out, by their suffix."""
    for suffix in suffixes:
        notices.note(f"members .{suffix}, {why}", f"{key}.{suffix}")


def _unread(members: Members, suffix: str) -> None:
    """What stands for a medium that is not read: nothing."""


def _add_text(record: dict[str, Any], text: str, where: str) -> None:
    """Put the text of a member into the record, unless the record has it already."""
    require(text, f"{where}: holds no text")
    given = [name for name in CAPTIONS if record.get(name) is not None]
    if not given:
        record["text"] = text
        return
    known = [clean_text(each, where).strip() for each in _texts_in(record[given[0]])]
    require(text in known, f"{where}: says another thing than {given[0]} of the .json beside it; leave one out")


def _texts_in(given: Any) -> list[str]:
    """The texts of a list, or of a single one."""
    values = given if isinstance(given, list) else [given]
    return [each for each in values if isinstance(each, str)]


def _add_medium(record: dict[str, Any], members: Members, where: str) -> None:
    """Name the picture or the recording that a record is about. InputError where a medium would be dropped and its text
    kept."""
    media = [suffix for suffix in members if suffix not in TEXTS]
    for field, suffixes in (("image", PICTURES), ("audio", SOUNDS)):
        own = [suffix for suffix in media if f".{suffix}" in suffixes]
        if own:
            record[field] = own[0]
            return
    for suffix in media:
        _refuse_lost_medium(suffix, where)


def _refuse_lost_medium(suffix: str, where: str) -> None:
    kind, where = f".{suffix}", f"{where}.{suffix}"
    require(kind not in UNREAD_PICTURES, f"{where}: pictures of this kind are not read; convert it to PNG or JPEG")
    last = suffix_of(kind)  # "" where the suffix has no dot within
    dotted = last in PICTURES or last[1:] in TEXTS
    require(not dotted, f"{where}: the key of a sample ends at its first dot; take the dots out of the names")
