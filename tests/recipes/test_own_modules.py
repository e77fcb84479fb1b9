"""Modules of a user's own that recipes name: where one is wrong, a line says which, where and what to do."""

import textwrap

import pytest

from mot_gen import backbone, objectives
from mot_gen.errors import InputError
from mot_gen.files.own_modules import exists, imported, not_found

TINY = {"dim": 8, "layers": 1, "heads": 1}
FROZEN = "from dataclasses import dataclass\nfrom mot_gen.backbone import parts\n@dataclass(frozen=True)\n"


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes a module of a package of the user's own, and returns its dotted path."""
    monkeypatch.syspath_prepend(tmp_path)
    package = f"own_{abs(hash(tmp_path))}"
    (tmp_path / package).mkdir()

    def write(name: str, text: str) -> str:
        (tmp_path / package / f"{name}.py").write_text(textwrap.dedent(text))
        return f"{package}.{name}"

    return write


@pytest.mark.parametrize(
    "text, said",
    [
        ("A = 1\ndef f(:\n", "broken.py:2: SyntaxError"),
        (
            "A = 1\nimport nowhere_at_all\n",
            "broken.py:2: ModuleNotFoundError: .*'nowhere_at_all'; install",
        ),
        ("raise RuntimeError('boom')\n", "broken.py:1: RuntimeError: boom"),
    ],
)
def test_a_module_that_fails_is_named_with_its_line(own, text, said):
    name = own("broken", text)
    assert exists("field", name)
    with pytest.raises(InputError, match=f"^field: module {name} cannot be imported: .*{said}"):
        imported("field", name)
    with pytest.raises(InputError, match=said):
        exists("field", f"{name}.below")
    with pytest.raises(InputError, match=said):
        backbone.load("dense", TINY | {"norm": name})


def test_a_name_that_is_no_module(own):
    name = own("right", "class Norm: pass\n")
    package = name.partition(".")[0]
    for wrong in (f"{name}.Norm", f"{name}:Norm", name.replace(".", "/") + ".py"):
        assert not exists("field", wrong)
        assert not_found(wrong, ["pre"]) == f"; did you mean {name!r}?"
    assert "PYTHONPATH" in not_found(f"{package}.missing", ["pre"])
    assert not_found("prae", ["pre"]) == "; did you mean 'pre'?"


def test_a_module_in_no_folder_is_told_to_move(tmp_path, monkeypatch):
    (tmp_path / "lonely_part.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert "say FOLDER.lonely_part" in not_found("lonely_part", ["pre"])
    assert not_found("random", ["pre"]) == "; one of: pre"


@pytest.mark.parametrize(
    "slot, text, said",
    [
        ("norm", "class Norm: pass", "must be a class that is based on mot_gen.backbone.parts.Norm"),
        ("norm", FROZEN + "class Norm(parts.Norm): pass", "must define before or after"),
        (
            "mixer",
            FROZEN + "class Mixer(parts.Mixer):\n def forward(self, block, x, plan, cache): pass",
            "define cache",
        ),
        ("residual", FROZEN + "class Residual(parts.Residual):\n def add(self, x, y): pass", "must take"),
        ("norm", FROZEN + "class Norm(parts.Norm):\n scale: float\n def before(self, *all): pass", "has no default"),
        ("bias", FROZEN + "class Bias(parts.Bias):\n def __init__(self): pass", "must not define __init__"),
    ],
)
def test_a_part_that_breaks_the_promises_of_its_slot(own, slot, text, said):
    with pytest.raises(InputError, match=f"backbone.{slot}.*{said}"):
        backbone.load("dense", TINY | {slot: own("part", text)})


def test_options_of_a_part(own):
    body = (
        "class Norm(parts.Norm):\n scale = 1.0\n other: 'Nowhere' = 2.0\n def before(self, norm, x, routing): return x"
    )
    name = own("part", FROZEN + body)
    backbone.load("dense", TINY | {"norm": {"kind": name, "other": 3.0}})
    with pytest.raises(InputError, match="without a type, so it is no field; write scale: TYPE = VALUE"):
        backbone.load("dense", TINY | {"norm": {"kind": name, "scale": 3.0}})


def test_an_objective_that_lacks_methods(own):
    with pytest.raises(InputError, match="has no loss"):
        objectives.load(own("empty", "class Objective: pass"))
    half = "class Objective:\n def corrupt(self): pass\n def loss(self): pass"
    with pytest.raises(InputError, match="has no sample_time, scheduler"):
        objectives.load(own("half", half))
    other = "from mot_gen.objectives import flow\nclass Objective(flow.Objective):\n def loss(self, output): pass"
    with pytest.raises(InputError, match=r"loss of .* must take \(self, output, target, time\), not \(output\)"):
        objectives.load(own("other", other))
