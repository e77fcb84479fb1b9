"""The command as people meet it: exit codes, one line for bad input, a tiny quickstart and what is made from it."""

import argparse
import io
import json
import subprocess
import sys

import pytest
from PIL import Image

from mot_gen.commands.main import _parser, main, print_any_text
from mot_gen.commands.options import print_facts

TINY = [
    "backbone.dim=32",
    "backbone.layers=1",
    "backbone.heads=2",
    "backbone.ffn_dim=64",
    "training.rows=2",
    "training.row_length=64",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder as the quickstart leaves it."""
    folder = tmp_path_factory.mktemp("quickstart") / "run"
    overrides = [*TINY, "training.steps=3", "training.sample_every=2", "evaluation.samples=20", "training.log_every=1"]
    assert main(["quickstart", "--out", str(folder), *overrides]) == 0
    return folder


def refused(capsys, *arguments) -> str:
    """The one line of a refusal; checks the exit code."""
    assert main([str(a) for a in arguments]) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("mot-gen: ")]
    assert len(lines) == 1 and not out
    return lines[0]


def test_a_missing_model_to_begin_with_is_named_with_the_command_that_makes_it(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = "make it with: mot-gen train digits training.steps=400 --out runs/digits-early"
    for recipe in ("think-then-draw", "digits-reward", "digits-nft", "captions-reward", "preferences"):
        assert refused(capsys, "plan", recipe).endswith(f"runs/digits-early holds no model; {made}")
    assert "give the folder of a run" in refused(capsys, "plan", "think-then-draw", "training.init=elsewhere")


def test_quickstart_leaves_all_that_is_promised(run):
    for name in ("recipe.yaml", "metrics.jsonl", "report.json", "report.html", "samples.png", "model/model_index.json"):
        assert (run / name).is_file(), name
    assert [p.name for p in sorted((run / "samples").iterdir())] == ["step-00000002.png", "step-00000003.png"]
    found = json.loads((run / "report.json").read_text())
    assert found["train"]["steps"] == 3 and found["train"]["seconds"] > 0
    assert found["images"]["n"] == 20 and 0 <= found["images"]["class_accuracy"] <= 1
    assert found["images"]["frechet"] > 0 and found["captions"]["n"] == 269 and found["text"]["bits_per_byte"] > 0
    assert all("measured_on" in found[part] for part in ("train", "images", "captions", "text"))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert {"seconds", "tokens", "flops", "losses", "lr", "grad_norm"} <= set(lines[0])


def test_the_judge_tells_digits_from_damage(run):
    judge = json.loads((run / "report.json").read_text())["images"]["judge"]
    assert judge["real"] >= 0.97
    assert judge["noise"] < 0.2 and judge["shuffled"] < 0.5 and judge["half"] < judge["real"] - 0.2


def test_generate_writes_a_picture_that_says_what_made_it(run, tmp_path, capsys):
    out = tmp_path / "new" / "seven.png"
    options = ["--num-inference-steps", "2", "--seed", "4", "--json"]
    assert main(["generate", str(run), "--to", "image", "--prompt", "a seven", "--out", str(out), *options]) == 0
    assert json.loads(capsys.readouterr().out)["file"] == str(out)
    with Image.open(out) as image:
        assert image.size == (8, 8)
        assert image.text["prompt"] == "a seven" and image.text["seed"] == "4" and len(image.text["model_sha256"]) == 64


def test_the_same_seed_makes_the_same_picture_alone_and_among_others(run, tmp_path):
    ask = ["generate", str(run), "--to", "image", "--prompt", "a seven", "--num-inference-steps", "2", "--out"]
    assert main([*ask, str(tmp_path / "one.png")]) == 0
    assert main([*ask, str(tmp_path / "many"), "--num", "3"]) == 0
    one, first = (Image.open(tmp_path / name).tobytes() for name in ("one.png", "many/0000.png"))
    assert one == first != Image.open(tmp_path / "many" / "0001.png").tobytes()


def test_generate_text_and_info(run, tmp_path, capsys):
    Image.new("L", (8, 8), 200).save(tmp_path / "grey.png")
    assert (
        main(["generate", str(run), "--to", "text", "--image", str(tmp_path / "grey.png"), "--max-new-tokens", "4"])
        == 0
    )
    assert main(["generate", str(run / "model"), "--to", "text", "--prompt", "a", "--max-new-tokens", "4"]) == 0
    capsys.readouterr()
    assert main(["info", str(run), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["active_parameters"] < facts["total_parameters"] and "flow" in facts["objectives"]


def test_plan_counts_what_the_run_counted(run, capsys):
    assert main(["plan", "digits", *TINY, "training.steps=3", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    ran = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert facts["flops"] == pytest.approx(ran["flops"], rel=0.1)
    assert facts["tokens"] == pytest.approx(ran["tokens"], rel=0.1)


def test_large_numbers_are_said_in_short_as_well(capsys):
    print_facts(
        {"peak_bytes": 3 << 30, "logit_bytes": 5 << 19, "flops": 1_371_310_070_400, "samples": 2_000_000}, False
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[-1] for line in lines] == ["(3.00 GiB)", "(2.5 MiB)", "(1.37e+12)", "2,000,000"]


def test_a_finished_run_is_not_overwritten(run, capsys):
    weights = (run / "model" / "model" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert "--resume" in refused(capsys, "train", "digits", *TINY, "--out", run)
    assert "another recipe" in refused(capsys, "quickstart", "--out", run, *TINY)
    assert (run / "model" / "model" / "diffusion_pytorch_model.safetensors").read_bytes() == weights


def test_a_damaged_model_is_refused(run, tmp_path, capsys):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(run / "model", copy)
    weights = copy / "model" / "diffusion_pytorch_model.safetensors"
    good = bytearray(weights.read_bytes())
    flipped = bytearray(good)
    flipped[-5] ^= 1
    for bad, word in ((flipped, "sha256"), (good[:1000], "bytes")):
        weights.write_bytes(bad)
        line = refused(capsys, "generate", copy, "--to", "text", "--prompt", "a")
        assert str(weights) in line and word in line


def test_a_damaged_checkpoint_is_refused(run, tmp_path, capsys):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    for weights in copy.glob("checkpoints/*/*model*.safetensors"):
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    line = refused(capsys, "train", str(copy / "recipe.yaml"), "--out", copy, "--resume")
    assert "model-" in line and "sha256" in line


def test_a_checkpoint_that_does_not_fit_says_what_differs(run, tmp_path, capsys):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    wider = refused(capsys, "train", str(copy / "recipe.yaml"), "backbone.dim=48", "--out", copy, "--resume")
    assert "was begun with another recipe: backbone.dim: 32 -> 48; undo that" in wider


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.stepz=3", ["training.stepz", "steps"]),
        ("training.steps=many", ["training.steps", "many"]),
        ("backbone.layers=-2", ["backbone.layers", "-2"]),
        ("data.records=missing.jsonl", ["missing.jsonl", "(data.records)"]),
        ("data.rehearsal.records=missing.jsonl", ["missing.jsonl", "(data.rehearsal.records)"]),
        ("objectives.image.kind=flows", ["flows", "flow"]),
        ("backbone.kind=moth", ["moth", "mot"]),
    ],
)
def test_a_recipe_that_cannot_be(override, words, tmp_path, capsys):
    line = refused(capsys, "train", "digits", override, "--out", tmp_path / "run")
    assert all(word in line for word in words)
    assert not (tmp_path / "run" / "recipe.yaml").exists() and not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("content", "word"), [("", "no record"), ("{not json\n", "line 1"), ('{"picture": "a.png"}\n', "picture")]
)
def test_records_that_cannot_be_read(content, word, tmp_path, capsys):
    (tmp_path / "records.jsonl").write_text(content)
    line = refused(capsys, "train", "digits", f"data.records={tmp_path / 'records.jsonl'}", "--out", tmp_path / "run")
    assert "records.jsonl" in line and word in line


def test_prompts_and_pictures_that_cannot_be(run, tmp_path, capsys):
    text = tmp_path / "not-an-image.png"
    text.write_text("hello")
    image = ["generate", run, "--to", "image", "--out", tmp_path / "x.png", "--prompt"]
    assert "empty" in refused(capsys, *image, "")
    assert "trained on" in refused(capsys, *image, "seven " * 500)
    assert "num_inference_steps" in refused(capsys, *image, "a", "--num-inference-steps", "0")
    assert "guidance_scale" in refused(capsys, *image, "a", "--guidance-scale", "nan")
    assert "not-an-image.png" in refused(capsys, "generate", run, "--to", "text", "--image", text)
    assert "nowhere.png" in refused(capsys, "generate", run, "--to", "text", "--image", tmp_path / "nowhere.png")
    assert not (tmp_path / "x.png").exists()


def test_no_such_command_and_no_such_checkpoint(tmp_path, capsys):
    assert "trian" in refused(capsys, "trian", "digits")
    assert str(tmp_path) in refused(capsys, "info", tmp_path)


def test_a_second_writer_is_refused(tmp_path, capsys):
    from mot_gen.training import checkpoint

    with checkpoint.lock(tmp_path):
        assert "is writing here" in refused(capsys, "train", "digits", *TINY, "--out", tmp_path)


def test_own_pictures_train_and_are_drawn(tmp_path, capsys):
    lines = []
    for number in range(12):
        colour = "red" if number % 2 else "blue"
        Image.new("RGB", (20, 16), colour).save(tmp_path / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "caption": f"a {colour} square"}))
    (tmp_path / "own.jsonl").write_text("\n".join(lines))
    options = [
        "tokenizers.image.color_channels=3",
        f"data.records={tmp_path / 'own.jsonl'}",
        "training.steps=2",
        "name=own",
    ]
    run = tmp_path / "run"
    assert main(["train", "digits", *TINY, *options, "evaluation.prompts=[]", "--out", str(run)]) == 0
    out = tmp_path / "red.png"
    assert main(["generate", str(run), "--to", "image", "--prompt", "a red square", "--out", str(out)]) == 0
    assert Image.open(out).mode == "RGB"


def test_what_an_encoding_lacks_is_printed_as_an_escape(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    print_any_text()
    print("3 \u2588", flush=True)
    assert written.getvalue() == b"3 \\u2588\n"


def test_help_is_quick_and_loads_nothing_heavy():
    code = "import sys; from mot_gen.commands.main import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "sys.exit(any(name in sys.modules for name in ('diffusers', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


@pytest.mark.parametrize(("asked", "holds"), [([], "mot-gen generate openmoji"), (["train", "--help"], "digits,")])
def test_help_says_how_to_begin(capsys, asked, holds):
    with pytest.raises(SystemExit) as ended:
        main(asked)
    assert ended.value.code == 0 and holds in capsys.readouterr().out


def test_every_argument_says_what_it_is():
    """Of all commands, and of the commands of commands."""
    without, parsers = [], [_parser()]
    for parser in parsers:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
            elif not action.help:
                without.append(f"{parser.prog} {action.dest}")
    assert len(parsers) > 20 and not without


def test_overrides_may_stand_behind_options(tmp_path, capsys):
    command = ["train", "digits", "training.lr=1e-4", "--out", str(tmp_path / "run"), "training.stepz=3"]
    assert main(command) == 2 and "training.stepz" in capsys.readouterr().err
    assert main([*command[:-1], "training.steps"]) == 2
    assert "unrecognized arguments: training.steps" in capsys.readouterr().err
    assert main(["info", str(tmp_path), "--odd"]) == 2
    assert capsys.readouterr().err == "mot-gen: info: unrecognized arguments: --odd; see mot-gen info --help\n"
    assert main(["generate", "openmoji", "--to", "image", "--steps", "3"]) == 2
    assert "--steps 3 (did you mean --num-inference-steps?); see mot-gen generate --help" in capsys.readouterr().err
    assert main(["info"]) == 2
    asked = "mot-gen: info: the following arguments are required: CHECKPOINT; see mot-gen info --help\n"
    assert capsys.readouterr().err == asked
    assert main(["info", str(tmp_path), "a=b"]) == 2 and "unrecognized arguments: a=b" in capsys.readouterr().err
