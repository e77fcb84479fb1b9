"""A folder of pictures, each beside a text file of the same name: PairFolder.

The text file ends in .txt or .caption, a caption a line, or in .cls (WebDataset's class), whose text is the caption.
Suffixes are compared without regard to case.
"""

from __future__ import annotations

from collections import Counter
from itertools import chain
from shlex import quote
from typing import Any

from mot_gen.data.remote import is_far
from mot_gen.data.samples import Pair
from mot_gen.data.sources import Source
from mot_gen.data.texts import decode_text, is_text
from mot_gen.errors import InputError, require
from mot_gen.files.suffixes import PICTURES, is_hidden, suffix_of

CAPTION_SUFFIXES = (".txt", ".caption", ".cls")  # the first that is there is read
READ = PICTURES.union(CAPTION_SUFFIXES)
RECORD_SUFFIXES = {".tar", ".parquet", ".jsonl", ".ndjson"}
TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
CONVERT, CLASSES = "mot-gen data convert image-folder", "mot-gen data convert class-folder"
Name = tuple[Any, str]  # folder, file name without suffix


class PairFolder(Source):
    """Pictures, also in subfolders, with their captions."""

    def _scan(self) -> None:
        self._images: list[Any] = []
        self._captions: list[Any] = []
        self._other: Counter[str] = Counter()  # files that are not read, by their suffix
        self._tables: list[Any] = []  # of captions, as Hugging Face has them; they are not read either
        self._texts: dict[Name, dict[str, Any]] = {}  # caption files by folder and name, then by suffix
        pictures = [path for path in sorted(self.path.rglob("*")) if self._is_picture(path)]
        for image in pictures:
            with self._broken.catching():
                self._image(image, self._texts.get(_name(image), {}))
        captioned = {*map(_name, pictures)}
        lone = [texts for name, texts in self._texts.items() if name not in captioned]
        names = map(self._relative, chain.from_iterable(map(dict.values, lone)))
        self._notices.note_all("caption files without a picture beside them", names)
        # As torchvision's ImageFolder: no text at all, and every picture in a folder.
        self._is_by_class = not self._texts and all("/" in self._relative(image) for image in pictures)
        self._texts.clear()

    def _is_picture(self, path: Any) -> bool:
        """Whether a path is a picture. Caption files are kept in `_texts`; everything else is noted."""
        suffix, reason = suffix_of(path.name), self._left_out(path)
        if reason:
            self._notices.note(reason, self._relative(path))
        elif suffix in CAPTION_SUFFIXES:
            self._texts.setdefault(_name(path), {})[suffix] = path
        return suffix in PICTURES and not reason

    def _left_out(self, path: Any) -> str:
        """Why a path is left out; empty for a picture or a caption file, and for a folder, which is nothing itself."""
        if is_hidden(self._relative(path)):
            return "hidden files and folders, which are left out"
        suffix, far = suffix_of(path.name), is_far(path)
        if suffix in READ:
            regular = far or path.is_file()
            return "" if regular else "names that are no regular files, which are left out"
        if path.is_dir():
            linked = not far and path.is_symlink()
            return "linked folders, which are not followed (give each in data.records)" if linked else ""
        self._other[suffix] += 1
        if path.name in TABLES:
            self._tables.append(path)
        kind = f"{suffix} files" if suffix else "files without a suffix"
        return f"{kind}, which are not read"

    def _image(self, image: Any, texts: dict[str, Any]) -> None:
        """Take in a picture with its captions; InputError where it cannot be used."""
        try:
            caption = self._caption_file(image, texts)
            others = [self._relative(text) for text in texts.values() if text is not caption]
            self._notices.note_all("caption files beside another of their picture, which are not read", others)
            pair = self._pair(image, caption, self._notices)
            size = image.stat().st_size
        except OSError as error:
            raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from None
        self._images.append(image)
        self._captions.append(caption)
        self._add(pair, f"{pair.id}\0{size}\0{pair.captions}".encode())

    def _caption_file(self, image: Any, texts: dict[str, Any]) -> Any:
        require(is_text(str(image)), f"{str(image)!r}: the name of the file is not UTF-8; rename it")
        require(texts, f"{image}: has no caption file {image.stem}.txt beside it")
        return texts[min(texts, key=CAPTION_SUFFIXES.index)]

    def _pair(self, image: Any, caption_file: Any, notices: Any = None) -> Pair:
        text = decode_text(caption_file.read_bytes(), str(caption_file), notices)
        captions = tuple(filter(None, map(str.strip, text.splitlines())))
        require(captions, f"{caption_file}: holds no caption")
        return Pair(self._relative(image), image, captions)

    def _relative(self, path: Any) -> str:
        return path.relative_to(self.path).as_posix()

    def _no_record(self) -> str:
        files = RECORD_SUFFIXES & self._other.keys()
        named = quote(str(self.path))
        if self._tables:
            return f"{self.path}: holds {self._relative(self._tables[0])}; say {CONVERT} {named} --out FILE"
        if self._broken.count and self._is_by_class:
            remedy = f"if folders are named for what their pictures show, say {CLASSES} {named} --out FILE"
            return f"{super()._no_record()}; {remedy}"
        if self._broken.count or not files:
            return super()._no_record()
        kinds = " and ".join(sorted(files))
        return f"{self.path}: holds no picture with a caption; its {kinds} files are records: give them in data.records"

    def sample(self, index: int) -> Pair:
        return self._pair(self._images[index], self._captions[index])


def _name(path: Any) -> Name:
    return path.parent, path.stem
