"""Other people's data sets, one module a format, found by its name: names, load.

A module of this package, or of one's own by its dotted path, offers

    FIELDS                              what a row may hold, nested fields by dotted paths, whether it is used or not;
                                        what stands beside these is reported
    rows(source: Path)                  the `Row`s of a file or folder, `mot_gen.corpora.foreign.rows` where that does
    records(row: Row, media: Media)     the records of one row, see docs/data.md; media in them are paths or bytes.
                                        Raises `Unconvertible` for a row that cannot be one

and says in its docstring where its schema is from. `mot_gen.corpora.convert` does the rest.
"""

from __future__ import annotations

import pkgutil
from types import ModuleType

from mot_gen.errors import InputError, require
from mot_gen.files.own_modules import exists, imported, not_found


def names() -> list[str]:
    """The formats of this package as the command line calls them."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def load(name: str) -> ModuleType:
    """The module of a format: one of `names`, or a dotted path to one's own."""
    module = f"{__name__}.{name.replace('-', '_')}" if name in names() else name
    if not exists("format", module):
        raise InputError(f"format {name!r} is neither known nor importable{not_found(name, names())}")
    found = imported("format", module)
    for member in ("FIELDS", "rows", "records"):
        require(hasattr(found, member), f"format: module {module} has no {member}; see docs/data.md for what one has")
    return found
