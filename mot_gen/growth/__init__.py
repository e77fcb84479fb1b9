"""Models made of trained ones: more layers or experts, fewer, or two in one. A *growth* is a file here, with a class

    Growth(**options)        a frozen dataclass; `needs_other`: whether it is of two models
    .grow(model, other)      -> a new MultimodalModel; InputError where the model does not fit

that `mot-gen convert SOURCE OUT --grow NAME [OPTION=VALUE ...] [--with FOLDER]` finds by its file's name. What a new
model computes at first, each file says: most begin exactly as the model that they are made from. Train it further with
`training.init`.

`names` lists them, and `check_name` refuses another.
"""

from __future__ import annotations

import pkgutil

from mot_gen.errors import InputError, nearest


def names() -> list[str]:
    """The growths that there are."""
    return [module.name for module in pkgutil.iter_modules(__path__) if module.name != "base"]


def check_name(name: str) -> None:
    """InputError for a growth that there is not."""
    if name not in names():
        raise InputError(f"--grow {name}: is not known" + nearest(name, names()))
