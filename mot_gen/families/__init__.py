"""Published models, one file a family: recognise, by_name, check_name, names, and what a family's file has.

A family is a module here, or a user's own by its dotted name. It has

- `LICENCE`: the licence that goes with the published weights, and `LOOKS_FOR`: the files it is recognised by, in words;
- `WEIGHTS`, if not all safetensors of the folder: the files that hold them, patterns too; `PASSES_OVER`: beginnings of
  names of tensors that are not read;
- `recognises(folder)`: whether a folder holds a published model of this family;
- `parts(source, **options)` -> list of `conversion.Part`: each component of ours with its outline and its table;
- `pipeline(source, parts)` -> `MultimodalPipeline` over those modules, whatever their device: tokenizers, scheduler and
  the published defaults of sampling;
- `recipe(pipeline, out)` -> the text of a recipe that goes on training it, see `mot_gen.families.shared.recipes`;
- `parts_like(source, folder)`, if a converted, perhaps trained, folder of ours may have other parts than the published
  model: those;
- `tiny(folder)`: writes a small random model in the published layout there, every weight random, for tests.

`mot_gen.families.shared.conversion` does the rest, alike for all; the other modules of `shared` are what several
families use.
"""

from __future__ import annotations

import pkgutil
from pathlib import Path
from types import ModuleType

from mot_gen.errors import InputError
from mot_gen.files.own_modules import exists, imported, not_found

NO_FAMILIES = ("language_models", "shared")  # the Python functions around `llama`, and what families share


def names() -> list[str]:
    """The families of this folder."""
    return [module.name for module in pkgutil.iter_modules(__path__) if module.name not in NO_FAMILIES]


def check_name(name: str) -> str:
    """The module of the family of that name, or of a dotted name in a package of the user's; InputError for none."""
    a_users_own = "." in name
    dotted = name if a_users_own else f"{__name__}.{name}"
    known = exists("family", dotted) if a_users_own else name in names()
    if not known:
        raise InputError(f"family: {name!r} is not known{not_found(name, names())}")
    return dotted


def by_name(name: str) -> ModuleType:
    """The family of that name, or of a dotted name in a package of the user's. InputError for none."""
    family = imported("family", check_name(name))
    for required in ("recognises", "parts", "pipeline", "LICENCE"):
        if not hasattr(family, required):
            raise InputError(f"family: {name} has no {required}; see mot_gen/families/__init__.py for what one has")
    return family


def family_of(folder: Path, name: str | None = None) -> ModuleType:
    """The family of that name, or where there is none the one that a folder's files belong to. InputError where the
    folder is of another."""
    if name is None:
        return recognise(folder)
    family = by_name(name)
    if not family.recognises(folder):
        looks_for = getattr(family, "LOOKS_FOR", "what it recognises")
        raise InputError(f"{folder}: is not of the family {name} (--family), which needs {looks_for}; drop --family")
    return family


def recognise(folder: Path) -> ModuleType:
    """The family that a folder's files belong to; InputError that lists the families and what was looked for."""
    families = [by_name(name) for name in names()]
    for family in families:
        if family.recognises(folder):
            return family
    wanted = "; ".join(f"{family.__name__.rpartition('.')[2]}: {family.LOOKS_FOR}" for family in families)
    raise InputError(f"{folder}: is of no known family ({wanted})")
