"""Who may import whom: the floors of the house, no circles, a light `import mot_gen`, and Hugging Face's tokenizers."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import mot_gen

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mot_gen"

# From the ground up. A room may import itself and the rooms on lower floors, never a neighbour on its own floor.
FLOORS = [
    {"errors"},
    {"sequence", "files", "patches", "scales"},
    {"checkpoints", "backbone", "learning", "packing", "objectives", "tokenizers", "eval", "model_config"},
    {"model", "recipes"},
    {"flops"},
    {"data", "pipelines"},
    {"datasets", "families", "growth"},
    {"training"},
    {"corpora", "reports"},
    {"study", "reinforce"},
    {"commands"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# Beyond the floors: rooms that know nothing of some that lie below them. Metrics know files and errors alone.
STRANGERS = {
    "backbone": {"objectives", "tokenizers", "packing"},
    "training": {"pipelines", "eval"},
    "eval": set(FLOOR) - {"errors", "files", "eval"},
}
# The same within pipelines/: what a folder there may import of it, beside itself.
BENEATH_PIPELINES = {"engine": {"settings"}, "captions": {"settings", "engine"}}
# The two modules that stand in no room: the package's own flat names, and `python -m mot_gen`.
DOORS = {"", "__main__"}


def name_of(path: Path) -> str:
    """Module name below mot_gen, "" for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    return module.partition(".")[0]


def modules() -> dict[str, Path]:
    """Every module by its name; the links of tokenizers/, pipelines/ and eval/ are followed, as `rglob` would not."""

    def below(folder: Path) -> Iterator[Path]:
        for path in sorted(folder.iterdir()):
            if path.is_dir() and path.name != "__pycache__":
                yield from below(path)
            elif path.suffix == ".py":
                yield path

    return {name_of(path): path for path in below(PACKAGE)}


@cache
def imports() -> dict[str, set[str]]:
    """Module -> the modules of mot_gen that it imports, anywhere in the file."""
    known = modules()
    return {name: {m for m in named_in(path) if m in known and m} for name, path in known.items()}


def named_in(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("mot_gen.") for name in found if name.startswith("mot_gen.")}


def test_every_module_stands_on_a_floor():
    assert {room_of(name) for name in modules()} == {*FLOOR, *DOORS}


def test_few_modules_lie_flat():
    assert len(list(PACKAGE.glob("*.py"))) <= 8


def test_every_package_is_listed_for_setuptools():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["packages"]
    folders = {path.parent for path in modules().values()}
    assert set(listed) == {".".join(["mot_gen", *folder.relative_to(PACKAGE).parts]) for folder in folders}


def test_imports_run_downwards():
    uphill = [
        f"{module} -> {used}"
        for module, names in imports().items()
        for used in names
        if module not in DOORS and room_of(used) != room_of(module) and FLOOR[room_of(used)] >= FLOOR[room_of(module)]
    ]
    assert not uphill


def test_imports_within_pipelines_run_downwards():
    uphill = [
        f"{module} -> {used}"
        for folder, beneath in BENEATH_PIPELINES.items()
        for module, names in imports().items()
        for used in names
        if module.startswith(f"pipelines.{folder}") and room_of(used) == "pipelines"
        if used.split(".")[1] not in {folder, *beneath}
    ]
    assert not uphill


def test_strangers_stay_strangers():
    met = [
        f"{module} -> {used}"
        for module, names in imports().items()
        for used in names
        if room_of(used) in STRANGERS.get(room_of(module), ())
    ]
    assert not met


@pytest.mark.parametrize("folder", ["backbone", "objectives"])
def test_a_new_backbone_or_objective_is_one_file(folder):
    """No implementation imports its sibling; what has no `Backbone` or `Objective` of its own is a part of one."""
    implements = re.compile(r"^class (Backbone|Objective)\b", re.MULTILINE)
    own = {n for n, p in modules().items() if n.startswith(f"{folder}.") and implements.search(p.read_text("utf-8"))}
    assert {(m, used) for m in own for used in imports()[m] & own} == set()


def test_there_is_no_circle():
    state: dict[str, str] = {}

    def visit(module: str, trail: tuple[str, ...]):
        assert state.get(module) != "open", " -> ".join((*trail, module))
        if module not in state:
            state[module] = "open"
            for used in imports()[module]:
                visit(used, (*trail, module))
            state[module] = "closed"

    for module in imports():
        visit(module, ())


def test_the_words_need_torch_alone():
    words = [name for name in modules() if room_of(name) in ("sequence", "packing", "patches")]
    for name in (*words, "backbone.routing", "backbone.attention"):
        tree = ast.parse(modules()[name].read_text(encoding="utf-8"))
        top = {
            module.split(".")[0]
            for node in ast.walk(tree)
            for module in (
                [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", "")]
            )
            if isinstance(node, (ast.Import, ast.ImportFrom))
        }
        assert top - sys.stdlib_module_names <= {"torch", "mot_gen"}, name


def test_importing_the_package_and_its_words_is_light():
    heavy = "sorted({'transformers', 'diffusers', 'tokenizers'} & set(sys.modules))"
    loads = (
        f"import sys, mot_gen; print('torch' in sys.modules, {heavy}); from mot_gen import Span, pack; print({heavy})"
    )
    assert python(loads) == "False []\n[]"


def test_the_root_does_not_hide_the_tokenizers_library():
    assert python("import tokenizers; print(tokenizers.Tokenizer.__module__, tokenizers.__file__ is None)") == (
        "tokenizers False"
    )


def python(code: str) -> str:
    """What a fresh interpreter prints, started in the repository's root as `python -m` would be."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_flat_name_is_there():
    for name in mot_gen.__all__:
        assert getattr(mot_gen, name) is not None
    assert set(mot_gen.__all__) <= set(dir(mot_gen))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = mot_gen.no_such_name
