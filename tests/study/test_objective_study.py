"""The study of objectives: equal training FLOPs, what each objective brings along, what is refused, what is found."""

import json
from types import SimpleNamespace

import pytest
import torch

from mot_gen.commands.main import main
from mot_gen.errors import InputError
from mot_gen.recipes.recipe import load_recipe
from mot_gen.reports.evaluations import by_evaluations
from mot_gen.reports.judge_run import task_of
from mot_gen.study.objective_page import write_objective_page
from mot_gen.study.objective_summary import evaluations_table, objective_summary, objective_table
from mot_gen.study.objective_variants import objective_variants, recipe_of_objective
from mot_gen.study.runs import jobs_of
from mot_gen.study.workload import Workload
from mot_gen.training import loop

TINY = [
    "tokenizers.text.vocab_size=270",
    "backbone.dim=16",
    "backbone.layers=2",
    "backbone.heads=2",
    "backbone.ffn_dim=32",
    "training.rows=2",
    "training.row_length=96",
    "training.steps=100",
    "training.warmup_steps=1",
    "training.device=cpu",
]
NAMES = ["flow", "shortcut", "masked"]


@pytest.fixture(scope="module")
def recipe():
    return load_recipe("digits", TINY)


@pytest.fixture(scope="module")
def workload(recipe):
    return Workload.of(recipe)


@pytest.fixture(scope="module")
def compared(recipe, workload):
    return objective_variants(
        recipe, NAMES, {"masked": ["cap=0.2", "sampling.num_inference_steps=8"]}, "image", workload
    )


def test_every_objective_has_the_flops_of_the_recipes_training(compared, recipe, workload):
    budget = recipe.training.steps * workload.cost(recipe).flops
    for variant in compared:
        assert abs(variant.recipe.training.steps * variant.cost.flops - budget) <= variant.cost.flops / 2, variant.name
        for section in ("data", "backbone", "evaluation"):
            assert getattr(variant.recipe, section) == getattr(recipe, section)
    flow, shortcut, _ = compared
    assert flow.recipe == recipe
    # Two more forward passes over a quarter of the rows, beside one forward and one backward pass.
    assert shortcut.cost.flops == pytest.approx((3 + 2 * 0.25) / 3 * flow.cost.flops, rel=0.02)


def test_an_objective_brings_the_setting_of_its_shipped_recipe(compared):
    masked, shipped = compared[2].recipe, load_recipe("show-o")
    assert masked.tokenizers["image"] == shipped.tokenizers["image"] and masked.tokenizers["text"].options != {}
    assert masked.objectives["image"].weight == shipped.objectives["image"].weight
    assert masked.objectives["image"].options["cap"] == 0.2
    assert (masked.sampling.guidance_scale, masked.sampling.num_inference_steps) == (1.5, 8)
    assert compared[1].recipe.sampling.num_inference_steps == 2


def test_a_modality_that_the_recipe_has_not_is_refused():
    with pytest.raises(InputError, match="are those of speech, and digits has text, image alone"):
        recipe_of_objective(load_recipe("digits", TINY), "flow", [], "speech")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--objectives", "flow,diffussion"], ["'diffussion'", "diffusion"]),
        (["--objectives", "flow,flow"], ["'flow' is given twice"]),
        (["--objectives", "flow", "--backbones", "mot"], ["--backbones: is for a study of backbones"]),
        (["--objectives", "flow", "masked:cap=0.1"], ["masked:cap=0.1", "not among the objectives"]),
        (["--objectives", "flow", "flow:weigth=2"], ["weigth"]),
    ],
    ids=str,
)
def test_what_cannot_be_compared_is_refused_before_anything_runs(arguments, words, tmp_path, capsys):
    assert main(["study", "digits", *TINY, "--out", str(tmp_path / "out"), *arguments]) == 2
    line = capsys.readouterr().err
    assert all(word in line for word in words) and len(line.splitlines()) == 1, line
    assert not (tmp_path / "out").exists()


def test_too_little_for_the_warm_up_is_refused(recipe, workload):
    short = load_recipe("digits", [*TINY, "training.steps=10", "training.warmup_steps=9"])
    with pytest.raises(InputError, match=r"shortcut: .* FLOPs are 8 steps, which do not go past the warm-up"):
        objective_variants(short, ["shortcut"], {}, "image", workload)


@pytest.mark.parametrize("objective", ["flow", "next_token", "next_scale"])
def test_passes_are_counted_and_numbers_that_change_nothing_are_left_out(objective, recipe, workload, tmp_path):
    """A flow takes one more pass for each step; a picture of 16 tokens, one by one, takes the same number always, and
    one of several scales can be drawn in no other number of steps."""
    (variant,) = objective_variants(recipe, [objective], {}, "image", workload)
    run = loop.prepare(variant.recipe, tmp_path, trained_tokenizers=False)
    judge = SimpleNamespace(predict=lambda images: torch.zeros(len(images), dtype=torch.long))
    rows = by_evaluations(run, task_of(variant.recipe), judge, (4, 1, 2), 10)
    run.close()
    assert all(row["class_accuracy"] == 0.1 and row["n"] == 10 and row["cpu_seconds"] > 0 for row in rows)
    if objective == "flow":
        assert [row["steps"] for row in rows] == [1, 2, 4]
        assert [row["passes"] - rows[0]["passes"] for row in rows] == [0, 1, 3]
    elif objective == "next_token":
        assert len(rows) == 1 and rows[0]["passes"] >= 16
    else:
        (row,) = rows
        assert row["steps"] == len(run.model.modality["image"].scales) <= row["passes"] <= 6


def test_figures_of_all_seeds_are_found_and_shown(compared, tmp_path):
    jobs = jobs_of(compared, 2, tmp_path)
    for job in jobs:
        job.folder.mkdir(parents=True)
        (job.folder / "metrics.jsonl").write_text(json.dumps({"step": 9, "seconds": 9, "cpu_seconds": 18.0}))
        accuracy = 0.5 + 0.1 * job.seed
        quality = {
            "images": {"class_accuracy": accuracy, "frechet": 2.0, "n": 20},
            "captions": {"accuracy": 0.9, "n": 30},
            "text": {"bits_per_byte": 0.2},
        }
        rows = [
            {"steps": s, "passes": s + 1, "class_accuracy": accuracy, "cpu_seconds": s / 100, "n": 5} for s in (2, 8)
        ]
        (job.folder / "result.json").write_text(json.dumps({"quality": quality, "by_evaluations": rows}))
    (jobs[-1].folder / "result.json").unlink()
    found = {"recipe": "digits"} | objective_summary(jobs, "image")
    assert (found["finished"], found["runs"], found["seeds"]) == (5, 6, [0, 1])
    flow, _, masked = found["objectives"]
    assert flow["quality"]["class_accuracy"]["values"] == [0.5, 0.6] and masked["seeds"] == [0]
    header, *rows = objective_table(found)
    table = {row[0]: dict(zip(header, row)) for row in rows}
    # At each objective's own number of steps: 20, of which 8 is the largest that was drawn; 2; 8.
    assert [table[name]["evaluations"] for name in NAMES] == ["9", "3", "9"]
    assert table["flow"]["class accuracy"] == "0.550 ± 0.071" and table["flow"]["CPU ms/picture"] == "80.0"
    assert len(evaluations_table(found)) == 1 + 3 * 2
    write_objective_page(found, jobs, tmp_path / "study.html")
    assert (tmp_path / "study.html").read_text().count("<svg") == 2
    assert len(list((tmp_path / "plots").glob("*.svg"))) == 2
