"""The notebooks of notebooks/ run from top to bottom, at small size, and hold no outputs."""

import ast
import json
import os
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"

# What each notebook's first code cell sets, made small.
SMALL = {
    "first_steps": {"STEPS": 4},
    "own_data": {"STEPS": 2, "ROWS": 1, "EACH": 1},
    "metrics": {"N": 60, "DRAWN": 4},
}


def cells(name: str, kind: str) -> list[str]:
    notebook = json.loads((FOLDER / f"{name}.ipynb").read_text("utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def run(source: str, names: dict):
    """Run a cell; returns the value of its last line, where that is an expression, as a notebook shows it."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)


def run_all(name: str) -> tuple[dict, list]:
    """The names that a notebook leaves behind, and what its cells show."""
    names: dict = {"__name__": "__main__"}
    first, *others = cells(name, "code")
    run(first, names)
    assert SMALL[name].keys() <= names.keys(), f"{name}: its first code cell sets no {', '.join(SMALL[name])}"
    names |= SMALL[name]
    return names, [run(source, names) for source in others]


def difference(one, other) -> float:
    """Mean absolute difference of two pictures, in levels of 255."""
    a, b = (np.asarray(picture, dtype=float) for picture in (one, other))
    return float(np.abs(a - b).mean())


@pytest.fixture
def elsewhere(tmp_path):
    """An empty folder as the working directory, since notebooks write into the one that they are in."""
    before = Path.cwd()
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(before)


def test_every_notebook_is_run():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_no_outputs_are_stored(name):
    for cell in json.loads((FOLDER / f"{name}.ipynb").read_text("utf-8"))["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None


def test_the_notebook_of_first_steps(elsewhere):
    names, shown = run_all("first_steps")
    texts = next(value for value in shown if isinstance(value, list))
    assert len(texts) == 4 and all(texts)
    assert len(names["previews"]) == 6
    same, other = (difference(names["pictures"][0], names["varied"][at]) for at in (0, -1))
    assert same < 3 < other  # at strength 0 a picture stays as it is, but for the tokenizer
    layout, kinds = names["batch"].layout, names["names"]
    assert [kinds[number] for number in layout.modality[0].tolist()].count("image") == 16


def test_the_notebook_of_own_data(elsewhere, capsys):
    names, shown = run_all("own_data")
    assert len(names["records"]) == 14  # 3 shapes in 5 colours, but for the one that is left out
    assert 0 in shown  # what `data validate` returned
    assert (elsewhere / "runs" / "notebook" / "run" / "model" / "model_index.json").exists()
    assert len(names["pictures"]) == 5 and len(shown[-1]) == 5
    assert set(names["lines"][-1]["losses"]) == {"text", "image"}


def test_the_notebook_of_metrics(elsewhere, capsys):
    names, _ = run_all("metrics")
    printed = capsys.readouterr().out
    distances = [float(line.split()[2].rstrip(",")) for line in printed.splitlines() if line.startswith("noise")]
    assert distances == sorted(distances) and len(distances) == 4
    assert names["right"] == 4
    assert "bleu" in printed.lower() and "warning:" in printed
