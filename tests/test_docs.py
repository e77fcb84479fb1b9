"""What the documents say is true: links and paths lead somewhere, commands parse, recipes load, names import.

The documents are the pages of docs/, README, CONTRIBUTING, CHANGELOG and the texts and code of the notebooks.
"""

import importlib.util
import json
import re
import shlex
from pathlib import Path

import pytest
from test_imports import FLOORS

import mot_gen
from benchmarks.__main__ import NAMES as BENCHMARKS
from mot_gen.commands.main import _parser
from mot_gen.data.records import parse_record
from mot_gen.recipes.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[1]
NAMED = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "notebooks/README.md")]
DOCS = [*NAMED, *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "notebooks").glob("*.ipynb"))]
# Dated logs: they name files as these were called on the day.
LOGS = ("decisions.md", "CHANGELOG.md")
PATH = re.compile(r"`((?:mot_gen|pipelines|tokenizers|eval|benchmarks|tests|docs|notebooks)/[\w./-]*\w)`")


def text_of(path: Path) -> str:
    """A document as markdown; code cells of a notebook are fenced blocks."""
    text = path.read_text("utf-8")
    if path.suffix != ".ipynb":
        return text
    parts = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    return "\n\n".join(parts)


def blocks(kind: str) -> list[tuple[str, str]]:
    """(file, text) of every fenced block of a kind."""
    return [(p.name, b) for p in DOCS for b in re.findall(rf"```{kind}\n(.*?)```", text_of(p), re.S)]


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_relative_links_lead_somewhere(path):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text_of(path))
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", [path for path in DOCS if path.name not in LOGS], ids=lambda path: path.name)
def test_files_that_are_named_exist(path):
    assert [name for name in PATH.findall(text_of(path)) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_benchmarks_that_are_named_exist(path):
    for module in re.findall(r"python -m (benchmarks\.\w+)", text_of(path)):
        assert importlib.util.find_spec(module), module
    for names in re.findall(r"python -m benchmarks((?: [a-z_]\w*)+)", text_of(path)):
        assert set(names.split()) <= {*BENCHMARKS, "goldens"}, names


@pytest.mark.parametrize(("name", "block"), blocks("sh"))
def test_commands_of_the_docs_parse(name, block):
    for line in re.sub(r"\\\n", " ", block).splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["mot-gen"]:
            assert callable(_parser().parse_args(words[1:]).func), line


@pytest.mark.parametrize(("name", "block"), blocks("yaml"))
def test_recipes_of_the_docs_load(name, block, tmp_path):
    (tmp_path / "recipe.yaml").write_text(block)
    assert load_recipe(tmp_path / "recipe.yaml").tokenizers


@pytest.mark.parametrize(("name", "block"), blocks("json"))
def test_records_of_the_docs_parse(name, block):
    decoder, rest = json.JSONDecoder(), block.strip()
    while rest:
        record, end = decoder.raw_decode(rest)
        assert parse_record(record, name, "0", lambda value, field: value).id
        rest = rest[end:].strip()


def test_every_flat_name_is_there():
    assert [name for name in mot_gen.__all__ if not hasattr(mot_gen, name)] == []


def test_examples_import_flat_names():
    for name, block in blocks("python"):
        for names in re.findall(r"from mot_gen import (.+)", block):
            assert set(re.split(r",\s*", names)) <= set(mot_gen.__all__), name


def test_the_glossary_says_where_things_are():
    """Every row names files that exist, and what is defined in them."""
    rows = re.findall(r"^\| \*\*.*\| ([^|]*) \|$", (ROOT / "docs" / "glossary.md").read_text("utf-8"), re.M)
    assert len(rows) > 50
    for row in filter(str.strip, rows):
        path, *names = re.findall(r"`([^`]+)`", row)
        source = (ROOT / path).read_text("utf-8")
        for name in names:
            assert re.search(rf"^(class |def |){name}\b", source, re.M), f"{path} has no {name}"


def test_the_drawing_of_the_floors_is_that_of_the_imports():
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d+) \| (`.*`) \|$", text, re.M)
    drawn = {int(number): set(re.findall(r"`(\w+)`", names)) for number, names in rows}
    assert drawn == dict(enumerate(FLOORS))
