"""A folder of pictures, each beside a text file of the same name: PairFolder.

The text file ends in .txt or .caption, a caption a line, or in .cls (WebDataset's class), whose text is the caption.
Suffixes are compared without regard to case.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from mot_gen.data.remote import is_far
from mot_gen.data.samples import Pair
from mot_gen.data.sources import Source
from mot_gen.data.texts import decode_text, is_text
from mot_gen.errors import InputError
from mot_gen.files.suffixes import PICTURES, is_hidden, suffix_of

CAPTION_SUFFIXES = (".txt", ".caption", ".cls")  # the first that is there is read
RECORD_SUFFIXES = {".tar", ".parquet", ".jsonl", ".ndjson"}
TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
Name = tuple[Any, str]  # folder, file name without suffix


class PairFolder(Source):
    """Pictures, also in subfolders, with their captions."""

    def _scan(self) -> None:
        self._images: list[Any] = []
        self._captions: list[Any] = []
        self._other: Counter[str] = Counter()
        pictures, captions = self._listed()
        for image in pictures:
            self._image(image, captions.pop(_name(image), None))
        for texts in captions.values():
            for path in texts.values():
                self._notices.note("caption files without a picture beside them", self._relative(path))

    def _listed(self) -> tuple[list[Any], dict[Name, dict[str, Any]]]:
        """The pictures in order; by folder and name, the caption files by suffix. Everything else is noted."""
        pictures: list[Any] = []
        captions: dict[Name, dict[str, Any]] = {}
        for path in sorted(self.path.rglob("*")):
            suffix = suffix_of(path.name)
            if is_hidden(self._relative(path)):
                self._notices.note("hidden files and folders, which are left out", self._relative(path))
            elif suffix not in PICTURES and suffix not in CAPTION_SUFFIXES:
                self._unread(path, suffix)
            elif not is_far(path) and not path.is_file():
                self._notices.note("names that are no regular files, which are left out", self._relative(path))
            elif suffix in PICTURES:
                pictures.append(path)
            else:
                captions.setdefault(_name(path), {})[suffix] = path
        return pictures, captions

    def _unread(self, path: Any, suffix: str) -> None:
        """Count what is neither a picture nor a caption; a folder is nothing by itself."""
        if not path.is_dir():
            self._other[suffix] += 1
            kind = f"{suffix} files" if suffix else "files without a suffix"
            self._notices.note(f"{kind}, which are not read", self._relative(path))
        elif not is_far(path) and path.is_symlink():
            what = "linked folders, which are not followed (give each in data.records)"
            self._notices.note(what, self._relative(path))

    def _image(self, image: Any, texts: dict[str, Any] | None) -> None:
        try:
            caption = self._caption_file(image, texts or {})
            pair = self._pair(image, caption, self._notices)
            size = image.stat().st_size
        except InputError as error:
            self._broken.note(str(error))
            return
        except OSError as error:
            self._broken.note(f"{error.filename}: cannot be read: {error.strerror}")
            return
        self._images.append(image)
        self._captions.append(caption)
        self._add(pair, f"{pair.id}\0{size}\0{pair.captions}".encode())

    def _caption_file(self, image: Any, texts: dict[str, Any]) -> Any:
        if not is_text(str(image)):
            raise InputError(f"{str(image)!r}: the name of the file is not UTF-8; rename it")
        for suffix in CAPTION_SUFFIXES:
            if suffix in texts:
                return texts[suffix]
        raise InputError(f"{image}: has no caption file {image.stem}.txt beside it")

    def _pair(self, image: Any, caption_file: Any, notices: Any = None) -> Pair:
        text = decode_text(caption_file.read_bytes(), str(caption_file), notices)
        lines = [line.strip() for line in text.splitlines()]
        captions = tuple(line for line in lines if line)
        if not captions:
            raise InputError(f"{caption_file}: holds no caption")
        return Pair(self._relative(image), image, captions)

    def _relative(self, path: Any) -> str:
        return path.relative_to(self.path).as_posix()

    def _no_record(self) -> str:
        files = [suffix for suffix in self._other if suffix in RECORD_SUFFIXES]
        if self._broken.count or not files:
            return super()._no_record()
        for table in TABLES:
            if (self.path / table).is_file():
                return f"{self.path}: holds {table}; say mot-gen data convert image-folder {self.path} --out FILE"
        kinds = " and ".join(sorted(files))
        return f"{self.path}: holds no picture with a caption; its {kinds} files are records: give them in data.records"

    def sample(self, index: int) -> Pair:
        return self._pair(self._images[index], self._captions[index])


def _name(path: Any) -> Name:
    return path.parent, path.stem
