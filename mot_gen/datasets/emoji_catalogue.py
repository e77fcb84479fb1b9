"""The emoji of OpenMoji that have a name in English, German, Spanish and French: Emoji, catalogue, qualified_names.

Needs the extra `emoji`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from mot_gen.datasets.emoji import emoji_pixels
from mot_gen.errors import InputError

# Blocks of code points: faces, animals, plants and food, sky, feasts, people, hands, vehicles, hearts, things.
BLOCKS = (
    "1F600-1F637 1F641-1F644 1F910-1F917 1F920-1F92F 1F970-1F97A 1F400-1F43E 1F980-1F9AE 1F330-1F37F 1F950-1F96F "
    "1F300-1F320 1F380-1F3C6 1F466-1F475 1F478-1F480 1F442-1F450 270A-270C 261D-261D 1F590-1F595 1F4AA-1F4AA "
    "1F64B-1F64F 1F918-1F91F 1F680-1F6A9 1F6B2-1F6B2 1F493-1F49F 2764-2764 1F90D-1F90F 1F9E1-1F9E1 1F4A1-1F4AF "
    "1F511-1F511 26BD-26BE 2600-2604 26C4-26C5 1F525-1F52E 1F9D0-1F9DF"
)
TONES = ("1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF")
LANGUAGES = ("en", "de", "es", "fr")


@dataclass(frozen=True)
class Emoji:
    """base: its id without a tone. tone: 0 (none) or 1 ... 5, light to dark. names: language -> name, tone included."""

    id: str
    base: str
    tone: int
    names: dict[str, str]


@cache
def catalogue() -> dict[str, Emoji]:
    """id -> emoji, in the order of BLOCKS, each followed by its skin tones. Raises InputError without the extra."""
    drawn, names = set(emoji_pixels(16)[0]), qualified_names()
    found: dict[str, Emoji] = {}
    for base in _bases():
        for tone, ids in enumerate(_ids_by_tone(base)):
            shown = next((id for id in ids if id in drawn), None)
            named = next((names[id] for id in ids if id in names), None)
            if shown is not None and named is not None:
                found.setdefault(shown, Emoji(shown, base, tone, named))
    return found


def _ids_by_tone(base: str) -> list[tuple[str, ...]]:
    """The ids that an emoji may have without a tone, then that of each tone."""
    return [(base, f"{base}-FE0F"), *((f"{base}-{tone}",) for tone in TONES)]


def _bases() -> Iterator[str]:
    """The code points of BLOCKS, as OpenMoji writes them."""
    for block in BLOCKS.split():
        first, last = block.split("-")
        yield from map("{:04X}".format, range(int(first, 16), int(last, 16) + 1))


def qualified_names() -> dict[str, dict[str, str]]:
    """id -> language -> name, of the fully qualified emoji with a name in all languages, in the order of the package
    `emoji`. InputError without the extra."""
    try:
        import emoji
    except ImportError as error:
        raise InputError("emoji need the extra: pip install 'mot-gen[emoji]'") from error
    emoji.config.load_language(list(LANGUAGES))
    qualified = emoji.STATUS["fully_qualified"]
    found = {}
    for characters, about in emoji.EMOJI_DATA.items():
        if about["status"] == qualified and about.keys() >= {*LANGUAGES}:
            id = "-".join(f"{ord(point):04X}" for point in characters)
            found[id] = {language: about[language].strip(":").replace("_", " ") for language in LANGUAGES}
    return found
