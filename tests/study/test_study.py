"""The study: equal budgets, what is refused, runs that go on, what is found in runs whose losses are known."""

import json

import pytest
import torch
from PIL import Image

from mot_gen.commands.main import main
from mot_gen.commands.study import StudyRequest, study
from mot_gen.errors import InputError
from mot_gen.recipes.recipe import load_recipe
from mot_gen.reports.plot import Line, plot, short, ticks
from mot_gen.study.budget import config_of, resize, solve_width
from mot_gen.study.figures import mean_and_sd
from mot_gen.study.page import write_page
from mot_gen.study.relatives import RELATIVES
from mot_gen.study.runs import jobs_of, run_all
from mot_gen.study.summary import summary, table
from mot_gen.study.variants import CONTROL, variants
from mot_gen.study.worker import run_once
from mot_gen.study.workload import Workload
from mot_gen.training import loop

TINY = [
    "tokenizers.text.vocab_size=270",
    "tokenizers.image.color_channels=3",
    "backbone.dim=64",
    "backbone.layers=2",
    "backbone.heads=4",
    "backbone.ffn_dim=192",
    "training.rows=2",
    "training.row_length=64",
    "training.warmup_steps=1",
    "training.device=cpu",
]
ALL = ["dense", "mot", "moe4x", "hybrid", "mamba", "mom"]


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """A few pictures and captions, without classes to judge by."""
    folder = tmp_path_factory.mktemp("records")
    for number in range(8):
        Image.new("RGB", (8, 8), "red" if number % 2 else "blue").save(folder / f"{number}.png")
    lines = [{"image": f"{n}.png", "caption": f"a {'red' if n % 2 else 'blue'} square"} for n in range(8)]
    (folder / "records.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return [f"data.records={folder / 'records.jsonl'}", "data.held_out=0.25"]


@pytest.fixture(scope="module")
def workload(records):
    return Workload.of(load_recipe("digits", [*TINY, *records]))


def compared(records, workload, match="active-flops", names=ALL, **options):
    recipe = load_recipe("digits", [*TINY, *records])
    return recipe, variants(recipe, names, options, match, workload)


# ---------------------------------------------------------------- budgets


def test_every_backbone_has_the_flops_of_the_recipes_own(records, workload):
    recipe, found = compared(records, workload)
    assert [variant.name for variant in found] == [*ALL, CONTROL]
    budget = workload.cost(recipe).flops
    for variant in found[:-1]:
        assert variant.cost.flops == pytest.approx(budget, rel=0.05), variant.name
        assert variant.recipe.backbone.kind == variant.name
        for section in ("data", "tokenizers", "objectives", "training"):
            assert getattr(variant.recipe, section) == getattr(recipe, section)
    dense, mot, control = found[0], found[1], found[-1]
    assert dense.cost.flops == mot.cost.flops and dense.cost.total < mot.cost.total
    assert control.cost.total == pytest.approx(mot.cost.total, rel=0.05) and control.recipe.backbone.kind == "dense"
    assert [v.name for v in found if not v.cost.causal] == ["moe4x", "hybrid"]
    assert all("not comparable" in v.note for v in found if not v.cost.causal)


def test_every_backbone_has_the_parameters_of_the_recipes_own(records, workload):
    recipe, found = compared(records, workload, "total-params")
    assert [variant.name for variant in found] == ALL  # the dense one is its own control
    for variant in found:
        assert variant.cost.total == pytest.approx(workload.cost(recipe).total, rel=0.05), variant.name


def test_an_ablation_is_a_variant_with_a_name_of_its_own(records, workload):
    _, found = compared(
        records, workload, names=["dense", "ffn"], ffn=["kind=mot", "untied=[ffn,ffn_norm]", "norm=output"]
    )
    ffn = found[1].recipe.backbone
    assert (ffn.kind, ffn.options["untied"], ffn.options["norm"]) == ("mot", ["ffn", "ffn_norm"], "output")
    assert found[0].recipe.backbone.options.get("norm", "pre") == "pre"


def test_every_relative_is_one_change_of_a_mixture_of_transformers(records, workload):
    """Here at its own width, which is not solved for."""
    own = {name: ["layers=2"] for name in RELATIVES}
    _, (usual, *found) = compared(records, workload, names=["mot", *RELATIVES], **own)
    before = usual.recipe.backbone.options
    for variant in found:
        backbone, stated = variant.recipe.backbone, RELATIVES[variant.name]
        changed = {name for name, value in backbone.options.items() if value != before.get(name)}
        assert changed == {text.partition("=")[0] for text in stated}
        assert backbone.kind == "mot" and variant.cost.causal
    assert len({variant.cost.flops for variant in found}) > len(found) / 2


def test_a_width_is_solved_and_its_feed_forward_makes_up_the_rest(records, workload):
    recipe = load_recipe("digits", [*TINY, *records])

    def flops(each):
        return workload.cost(each).flops

    for factor in (0.5, 1.7, 3.0):
        found = solve_width(recipe, factor * flops(recipe), flops, "FLOPs a step")
        assert flops(found) == pytest.approx(factor * flops(recipe), rel=0.02)
        config = config_of(found)
        assert config.dim % 8 == 0 and 1.5 <= config.ffn_dim / config.dim <= 6
    assert config_of(resize(recipe, 128)).ffn_dim == 384


def test_plan_solves_steps_or_width_for_a_budget(records, capsys):
    def planned(*arguments):
        assert main(["plan", "digits", *TINY, *records, "--json", *arguments]) == 0
        return json.loads(capsys.readouterr().out)

    whole = planned("training.steps=100")
    assert planned("--flops", str(0.5 * whole["flops"]))["steps"] == 50
    wider = planned("training.steps=100", "--flops", str(2 * whole["flops"]), "--solve", "width")
    assert wider["flops"] == pytest.approx(2 * whole["flops"], rel=0.02) and wider["backbone.dim"] > 64
    parts = whole["flops_a_token_forward"]
    assert list(parts) == ["backbone", "head", "image patches"]
    assert whole["flops_a_token_backward"]["head"] == pytest.approx(2 * parts["head"], abs=2)
    assert main(["plan", "digits", *TINY, *records, "--flops", "10"]) == 2
    assert "less than one step" in capsys.readouterr().err
    assert main(["plan", "digits", *TINY, *records, "--solve", "steps"]) == 2
    assert "--solve: needs a budget; give --flops too" in capsys.readouterr().err


def test_a_budget_that_no_width_meets_is_refused(records, workload):
    recipe = load_recipe("digits", [*TINY, *records])
    with pytest.raises(InputError, match=r"no width of backbone mot with 2 layers meets 1,000 FLOPs a step.*width 8"):
        solve_width(recipe, 1000, lambda each: workload.cost(each).flops, "FLOPs a step")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--backbones", "dense,moth"], ["'moth' is not a backbone", "mot"]),
        (["--backbones", "dense,mot,dense"], ["'dense' is given twice"]),
        (["--backbones", "dense,"], ["--backbones: give names with commas between them"]),
        (["--backbones", "dense,my.backbone"], ["'my.backbone' is not a backbone"]),
        (["--backbones", "dense", "mot", "training.seed=3"], ["unrecognized arguments: mot; see"]),
        (["--modalities", "speech"], ["digits has no 'speech'"]),
        (["--seeds", "0"], ["--seeds", "at least 1"]),
        (["--steps", "1"], ["training.steps", "warm-up of 1"]),
        (["mom:bidirectional=causal", "--backbones", "dense,mot"], ["mom:bidirectional=causal", "not among"]),
        (["mot:untied=[fnn]", "--backbones", "dense,mot"], ["'fnn'", "ffn"]),
        (["backbone.frozen=[text]", "--backbones", "dense,mot"], ["backbone.frozen", "drop"]),
        (["moe4x:layers=0", "--backbones", "moe4x"], ["backbone.layers", "0"]),
    ],
    ids=str,
)
def test_what_cannot_be_compared_is_refused_before_anything_runs(arguments, words, records, tmp_path, capsys):
    assert main(["study", "digits", *TINY, *records, "--out", str(tmp_path / "out"), *arguments]) == 2
    line = capsys.readouterr().err
    assert all(word in line for word in words), line
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- runs


def test_a_study_goes_on_where_it_was_stopped(records, tmp_path, capfd):
    """One run is finished, the other was killed behind its first checkpoint: the latter alone is run, from there."""
    overrides = [*TINY, *records, "backbone.dim=16", "backbone.ffn_dim=48"]
    request = StudyRequest("digits", overrides, ["dense", "mot"], seeds=1, steps=4, control=False, out=tmp_path)
    recipe = load_recipe("digits", [*overrides, "training.steps=4"])
    jobs = jobs_of(variants(recipe, request.backbones, {}, request.match, Workload.of(recipe), False), 1, tmp_path)
    for job in jobs:
        job.folder.mkdir(parents=True)
        job.recipe.save(job.folder / "recipe.yaml")
    finished = run_once(jobs[0].folder)
    kill_at(jobs[1], step=2)
    found, failed = study(request)
    assert failed == 0 and found["finished"] == found["runs"] == 2
    assert [each["name"] for each in found["backbones"]] == ["dense", "mot"]
    assert json.loads((jobs[0].folder / "result.json").read_text()) == finished
    for job in jobs:
        lines = [json.loads(line) for line in (job.folder / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2, 3, 4] and "held_out" in lines[-1]
    log = (tmp_path / "runs" / "log.txt").read_text()
    assert "step 4/4" in log and "step 1/4" not in log
    assert json.loads((tmp_path / "study.json").read_text()) == json.loads(json.dumps(found))
    assert "without a dense control" not in capfd.readouterr().out and "<svg" in (tmp_path / "study.html").read_text()
    with pytest.raises(InputError, match=r"dense-seed0: was begun with another recipe \(backbone.dim: 16 -> 64\)"):
        run_all(jobs_of(compared(records, Workload.of(recipe), names=["dense"])[1][:1], 1, tmp_path))


def kill_at(job, step):
    def pull_the_plug(run):
        if run.step == step:
            raise RuntimeError("out of power")
        return {}

    # A step later than the checkpoint, as a kill would be.
    with pytest.raises(RuntimeError, match="out of power"):
        loop.train(job.recipe, job.folder, hooks=loop.Hooks(evaluate=pull_the_plug))
    assert (job.folder / "checkpoints" / "latest").exists()


def first_noise(run):
    return run.batches.prepare_batch(0, 0).supervision.latents["image"].values


def test_all_variants_of_a_seed_see_the_same_batches_and_noise(records, workload, tmp_path):
    _, found = compared(records, workload, names=["dense", "mot"])
    jobs = jobs_of(found[:2], 2, tmp_path)
    assert [job.folder.name for job in jobs] == ["dense-seed0", "mot-seed0", "dense-seed1", "mot-seed1"]
    noise = [first_noise(loop.prepare(job.recipe, job.folder)) for job in jobs]
    assert torch.equal(noise[0], noise[1]) and torch.equal(noise[2], noise[3])
    assert not torch.equal(noise[0][:4], noise[2][:4])


# ---------------------------------------------------------------- what is found


@pytest.fixture()
def known(records, workload, tmp_path):
    """Runs of two seeds whose losses are one curve, at four times the speed for MoT."""
    steps = ["training.steps=400", "training.warmup_steps=40"]
    recipe = load_recipe("digits", [*TINY, *records, *steps])
    jobs = jobs_of(variants(recipe, ["dense", "mot", "moe4x"], {}, "active-flops", workload, False), 2, tmp_path)
    for job in jobs:
        job.folder.mkdir(parents=True)
        speed = {"dense": 1, "mot": 4, "moe4x": 0.5}[job.variant.name]
        lines = []
        for step in range(1, 401):
            losses = {"text": 1.0 / step, "image": (step * speed) ** -0.5 + 0.01 * job.seed}
            entry = {"step": step, "losses": losses, "seconds": step / 10, "cpu_seconds": step / 20}
            entry |= {"flops": step * job.variant.cost.flops} | ({"held_out": losses} if step % 20 == 0 else {})
            lines.append(json.dumps(entry))
        (job.folder / "metrics.jsonl").write_text("\n".join(lines))
        (job.folder / "result.json").write_text(json.dumps({"quality": {}}))
    return jobs


def test_slopes_of_known_losses_are_found(known):
    found = summary(known, "dense", ["text", "image"], "active-flops")
    dense, mot, moe = found["backbones"]
    assert "matching" not in dense and mot["flops_over_reference"] == 1.0
    image = mot["matching"]["image"]
    for split in ("train", "held_out"):
        assert image[split]["slope"]["mean"] == pytest.approx(0.25, rel=0.05)
        assert image[split]["slope"]["sd"] < 0.01 and len(image[split]["by_seed"]) == 2
    assert mot["matching"]["text"]["held_out"]["slope"]["mean"] == pytest.approx(1.0)
    half = moe["matching"]["image"]["held_out"]
    assert half["slope"]["mean"] == pytest.approx(2.0, rel=0.02) and half["matched_share"]["mean"] < 0.5
    in_flops = half["slope_in_flops"]["mean"] / half["slope"]["mean"]
    assert in_flops == pytest.approx(moe["flops_a_step"] / dense["flops_a_step"])
    assert mot["losses"]["image"]["held_out"]["mean"] == pytest.approx(0.025 + 0.005)
    assert mot["cpu_seconds_a_step"]["mean"] == pytest.approx(0.05)


def test_a_run_that_is_not_finished_is_left_out(known):
    (known[-1].folder / "result.json").unlink()
    found = summary(known, "dense", ["image"], "active-flops")
    assert found["finished"] == 5 and found["runs"] == 6
    assert found["backbones"][-1]["seeds"] == [0] and found["backbones"][-1]["losses"]["image"]["train"]["sd"] is None


def test_the_table_and_the_page_mark_what_is_not_comparable(known, tmp_path):
    found = {"recipe": "digits"} | summary(known, "dense", ["text", "image"], "active-flops")
    header, *rows = table(found)
    assert [row[0] for row in rows] == ["dense", "mot", "moe4x*"] and {len(row) for row in rows} == {len(header)}
    assert rows[1][header.index("s image held-out")].startswith("0.25 ± 0.0")
    write_page(found, known, tmp_path / "study.html")
    page = (tmp_path / "study.html").read_text()
    assert page.count("<svg") == 16 and "moe4x*: sees later tokens" in page and "Without a dense control" in page
    assert len(list((tmp_path / "plots").glob("*.svg"))) == 16


def test_figures_are_shown_with_their_spread():
    assert mean_and_sd({"mean": 0.25, "sd": 0.011}, 2) == "0.25 ± 0.01"
    assert mean_and_sd({"mean": 0.25, "sd": None}) == "0.250" and mean_and_sd(None) == "-"


def test_axes_have_round_ticks():
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(0.13, 0.31)[0] <= 0.13 and ticks(0.13, 0.31)[-1] >= 0.31
    assert (short(0.25), short(1.2e12), short(40_000)) == ("0.25", "1.2T", "40k")
    assert plot([Line([(0, 1)])], "x", "y") == ""
