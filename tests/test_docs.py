"""What the documents say is true: links lead somewhere, commands parse, recipes load, names import."""

import json
import re
import shlex
from pathlib import Path

import pytest

import mot_gen
from mot_gen.commands.main import _parser
from mot_gen.data.records import parse_record
from mot_gen.recipes.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[1]
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(kind: str) -> list[tuple[str, str]]:
    """(file, text) of every fenced block of a kind."""
    return [(p.name, b) for p in DOCS for b in re.findall(rf"```{kind}\n(.*?)```", p.read_text("utf-8"), re.S)]


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_relative_links_lead_somewhere(path):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text("utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize(("name", "block"), blocks("sh"))
def test_commands_parse(name, block):
    for line in re.sub(r"\\\n", " ", block).splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["mot-gen"]:
            assert callable(_parser().parse_args(words[1:]).func), line


@pytest.mark.parametrize(("name", "block"), blocks("yaml"))
def test_recipes_load(name, block, tmp_path):
    (tmp_path / "recipe.yaml").write_text(block)
    assert load_recipe(tmp_path / "recipe.yaml").tokenizers


@pytest.mark.parametrize(("name", "block"), blocks("json"))
def test_records_parse(name, block):
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
