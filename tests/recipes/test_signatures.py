"""What sources state is what the classes and functions really take."""

import importlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mot_gen import objectives
from mot_gen.backbone import PRESETS
from mot_gen.recipes.signatures import stated_types, tokenizer_in

TOKENIZERS = sorted(path.stem for path in (Path(objectives.__file__).parents[2] / "tokenizers").glob("image_*.py"))


def places():
    """(module, name) of all that recipes name and that sources can tell."""
    yield from ((f"mot_gen.objectives.{name}", "Objective") for name in objectives.NAMES)
    yield from ((module, "Config") for module in {module for module, _ in PRESETS.values()})
    for name in (*TOKENIZERS, "vector", "speech_units"):
        module = f"mot_gen.tokenizers.{name}"
        found = tokenizer_in(module)
        if found:
            yield module, found
    yield "mot_gen.tokenizers.text", "TextTokenizer.train"
    for trainer in ("train_image_latent", "train_image_vq", "train_image_scales", "train_speech_units"):
        yield f"mot_gen.tokenizers.{trainer}", "untrained"
        yield f"mot_gen.tokenizers.{trainer}", "Training"
    yield "mot_gen.tokenizers.image_training", "VQTraining"


def test_sources_state_what_is_there():
    told = 0
    for module, name in places():
        types = stated_types(module, name)
        if types is None:
            continue
        told += 1
        call = importlib.import_module(module)
        for part in name.split("."):
            call = getattr(call, part)
        assert set(types) == set(inspect.signature(call).parameters), (module, name)
    assert told >= 20


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module of a user's own, whose import fails."""
    monkeypatch.syspath_prepend(tmp_path)

    def written(source: str) -> str:
        (tmp_path / "mine_to_read.py").write_text("raise RuntimeError('imported')\n" + source)
        importlib.invalidate_caches()
        return "mine_to_read"

    return written


def test_fields_parameters_and_what_cannot_be_told(module):
    source = """
from dataclasses import dataclass, field
from typing import ClassVar
from collections.abc import Sequence as Several
from elsewhere import Far, Pattern
@dataclass
class Base:
    width: int = 3
@dataclass
class Config(Base):
    name: str | None = None
    odd: "Unknown" = 1
    kept: ClassVar[int] = 2
    given: Pattern = 1
    made: list = field(init=False)
@dataclass
class Other(Far):
    width: int = 3
def train(texts: Several[str], *, size: int, odd: Unknown = 1): ...
def loose(a: int, **others): ...
"""
    name = module(source)
    found = stated_types(name, "Config")
    assert list(found) == ["width", "name", "odd", "given"]
    assert found["width"] is int and found["name"] == str | None and found["given"] is Any
    assert (
        stated_types(name, "Other") is None
        and stated_types(name, "loose") is None
        and stated_types(name, "nothing") is None
    )
    assert stated_types(name, "train") == {"texts": Sequence[str], "size": int, "odd": Any}
    assert stated_types("no_such_module", "Config") is None
