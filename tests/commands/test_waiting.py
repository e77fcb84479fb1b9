"""Refusals come before anything heavy is imported: counted in modules of a fresh process, not in seconds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "torchvision", "torchaudio", "torchmetrics", "diffusers", "transformers", "scipy.stats", "sklearn")
# What a command that works may not have imported either, since nothing there needs it.
NEVER = ("torchvision", "torchmetrics", "torch._dynamo", "sympy", "scipy.stats", "sklearn", "matplotlib", "gradio")
RUN = """
import json, sys
from mot_gen.commands.main import main
code = main()
print(json.dumps([code, [name for name in NAMES if name in sys.modules]]))
"""


def command(arguments: str, names: tuple[str, ...]) -> tuple[int, list[str], str]:
    """Exit code, which of the names were imported, and stderr of the command in a process of its own."""
    code = f"import sys; sys.argv[1:] = {arguments.split()!r}; NAMES = {names!r}{RUN}"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    exit_code, imported = json.loads(done.stdout.splitlines()[-1])
    return exit_code, imported, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        "train no-such-recipe",
        "train no/such/recipe.yaml",
        "train digits training.epoch=3",
        "train digits training.steps=none",
        "plan no-such-recipe",
        "plan digits --processes 0",
        "info no/such/folder",
        "generate no/such/folder --to text --prompt a",
        "demo no/such/folder",
        "study no-such-recipe",
        "quickstart training.nothing=1",
    ],
)
def test_a_refusal_imports_nothing_heavy(arguments):
    exit_code, imported, stderr = command(arguments, HEAVY)
    assert (exit_code, imported) == (2, []), stderr
    assert len(stderr.strip().splitlines()) == 1


def test_plan_imports_what_it_needs():
    assert command("plan digits --json", NEVER)[:2] == (0, [])


def test_info_imports_what_it_needs():
    assert command("info openmoji --json", (*NEVER, "diffusers", "transformers"))[:2] == (0, [])
