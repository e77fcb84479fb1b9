"""Texts that people bring, made fit to learn from: clean_text, decode_text.

A text may begin with a byte order mark (Windows' Notepad writes one) and end its lines with carriage returns. Neither
is part of what was written, so both are taken out and counted. Half a character, a lone surrogate, is no text at all.
"""

from __future__ import annotations

from mot_gen.data.notices import Notices, kept
from mot_gen.errors import InputError, expect, require

MARK = "\ufeff"  # Unicode's byte order mark
MAX_BYTES = 2**26  # of one text file
CHANGED = "texts with a byte order mark or carriage returns, which are taken out"


def clean_text(text: str, field: str, notices: Notices | None = None) -> str:
    """A text without byte order mark and carriage returns. `field` begins the error and is noted where any were."""
    expect(is_text(text), f"{field} holds half a character (a lone surrogate)", text)
    clean = text.lstrip(MARK).replace("\r\n", "\n").replace("\r", "\n")
    if clean != text:
        kept(notices).note(CHANGED, field)
    return clean


def decode_text(content: bytes, where: str, notices: Notices | None = None) -> str:
    """The UTF-8 text of a file, cleaned, without blanks around it. `where` begins the error."""
    require(len(content) <= MAX_BYTES, f"{where}: a text of {len(content)} bytes is longer than {MAX_BYTES}")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8: {error}") from None
    return clean_text(text, where, notices).strip()


def is_text(text: str) -> bool:
    """Whether every character is whole, so that the text can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
