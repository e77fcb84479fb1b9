"""A finished run whose data has a task, judged: task_of, judge, summary.

`judge` draws pictures of every class, captions every held-out picture and measures both (reports/measure.py), into
`report.json`, `samples.png` and the page `report.html` of the run's folder.
"""

from __future__ import annotations

import html
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from PIL import Image

from mot_gen.data.records import Pair
from mot_gen.datasets.task import Task
from mot_gen.files.atomic import write_json, write_text
from mot_gen.files.image_files import load_image
from mot_gen.files.pictures import grid
from mot_gen.recipes.implementations import locate
from mot_gen.recipes.recipe import Recipe
from mot_gen.reports import page as report
from mot_gen.reports.generated import HeldOut
from mot_gen.training.build import TOKENIZERS
from mot_gen.training.loop import Run
from mot_gen.training.trained_tokenizers import REPORT

if TYPE_CHECKING:
    from mot_gen.eval.images.judge import Judge
    from mot_gen.reports.measure import MeasuredRun


def task_of(recipe: Recipe) -> Task | None:
    """The task of the recipe's source (its module's `task()`), for models of pictures; None where there is none."""
    source = locate("mot_gen.datasets", recipe.data.source)
    return source.task() if hasattr(source, "task") and "image" in recipe.tokenizers else None


def judge(run: Run, task: Task, network: Judge | None = None) -> dict:
    """Measure a trained run and write its report. Returns what `report.json` holds. network: what judges pictures,
    where it has been trained already."""
    from mot_gen.reports.measure import measure_captions, measure_images, measure_text

    count, held_out = run.recipe.evaluation.samples, HeldOut(run.splits.held_out)
    print(f"drawing and judging {count} {task.what}", file=sys.stderr, flush=True)
    images = measure_images(run, task, count, judge=network)
    print(f"captioning {len(run.splits.held_out)} held-out {task.what}", file=sys.stderr, flush=True)
    captions, written = measure_captions(run, task, held_out)
    found = {
        "train": train_facts(run, task.what),
        "tokenizers": _tokenizers(run.folder),
        "images": images.figures,
        "captions": captions,
        "text": measure_text(run, held_out),
        "model": str(run.folder / "model"),
    }
    write_json(run.folder / "report.json", found)
    _pictures(run, task, images, written, found)
    return found


def train_facts(run: Run, what: str) -> dict:
    """How long a run trained, and on how many samples; what: their name in the plural."""
    return {
        "seconds": run.seconds,
        "cpu_seconds": run.cpu_seconds,
        "steps": run.step,
        "measured_on": f"{len(run.splits.train)} {what}, {os.cpu_count()} CPU cores seen",
        "n": len(run.splits.train),
        "tokens": run.tokens,
        "flops": run.flops,
    }


def _tokenizers(folder: Path) -> dict[str, dict]:
    """What each tokenizer that the run trained keeps of held-out samples."""
    reports = sorted((folder / TOKENIZERS).glob(f"*/{REPORT}"))
    return {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in reports}


def summary(found: dict) -> str:
    """The figures of a report in a few lines."""
    images, captions = found["images"], found["captions"]
    folder = Path(found["model"]).parent
    return (
        f"class asked for in generated pictures  {images['class_accuracy']:.3f}  (N = {images['n']})\n"
        f"captions of unseen pictures, exact     {captions['accuracy']:.3f}  (N = {captions['n']})\n"
        f"bits per byte of captions              {found['text']['bits_per_byte']:.3f}\n"
        f"training                               {found['train']['seconds']:.0f} s\n"
        f"look at {folder / 'report.html'} and {folder / 'samples.png'}"
    )


def _pictures(run: Run, task: Task, images: MeasuredRun, judged: list[tuple[Pair, str, bool]], found: dict) -> None:
    """`samples.png`, the generated pictures a class a column, and `report.html`."""
    classes = len(task.classes)
    shown = images.pictures[: 6 * classes]
    grid(shown, classes).save(run.folder / "samples.png")
    color = "L" if run.tokenizers["image"].color_channels == 1 else "RGB"
    held_out = cast("Sequence[Pair]", run.splits.held_out)
    real = [next(p for p in held_out if task.label(p) == k) for k in range(classes)]
    captions = [(load_image(pair.image, color), text, right) for pair, text, right in _mixed(judged)]
    sections = [
        (
            "Drawn from captions",
            f"<p>One class a column: {', '.join(task.classes)}.</p>" + report.sheet(shown, classes, "generated"),
        ),
        ("Real ones, never trained on", report.sheet([load_image(p.image, color) for p in real], classes, "real")),
        (
            "Captions it wrote for pictures it never saw",
            f"<p>{_how_many(judged)}</p>" + report.captioned_grid(captions),
        ),
        ("The same noise, as training went on", progress_section(run)),
        ("Figures", report.table(_rows(found))),
        ("Losses", report.losses(run.folder, list(run.tokenizers))),
    ]
    made = f"{run.step} steps in {run.seconds:.0f} s; everything on this page was made by this run"
    text = report.page(f"mot_gen {run.recipe.name}: {task.what}", made, sections)
    write_text(run.folder / "report.html", text)


def _how_many(judged: list[tuple[Pair, str, bool]]) -> str:
    wrong = sum(not right for *_, right in judged)
    return f"{wrong} of {len(judged)} are wrong; the first of those stand last, in red, and the others are a sample."


def progress_section(run: Run) -> str:
    """The recipe's prompts at every `training.sample_every` steps."""
    sheets = sorted((run.folder / "samples").glob("step-*.png"))
    return "".join(
        f"<p>step {int(path.stem.removeprefix('step-'))}: {_prompts(path)}</p>"
        f"{report.picture(load_image(path, 'RGB'), path.stem)}"
        for path in sheets
    )


def _prompts(path: Path) -> str:
    """What a sample grid was drawn from, as the picture says itself."""
    with Image.open(path) as image:
        prompts = json.loads(image.info.get("prompts", "[]"))
    return html.escape("; ".join(prompts))


def _mixed(judged: list[tuple[Pair, str, bool]], count: int = 24) -> list[tuple[Pair, str, bool]]:
    """Some of the captions: up to six wrong ones, so that they are seen, and right ones spread over the set."""
    wrong = [each for each in judged if not each[2]][:6]
    right = [each for each in judged if each[2]]
    stride = max(1, len(right) // (count - len(wrong)))
    return right[::stride][: count - len(wrong)] + wrong


def _rows(found: dict) -> list[tuple[str, float | int | str, str]]:
    images, captions, text, judge = found["images"], found["captions"], found["text"], found["images"]["judge"]
    held_out = f"{judge['n']} held-out real images"
    return [
        ("training, seconds", found["train"]["seconds"], found["train"]["measured_on"]),
        ("generated pictures of the asked class", images["class_accuracy"], images["measured_on"]),
        ("the judge on real pictures", judge["real"], held_out),
        ("the judge on the same, encoded and decoded", images["judge_of_round_trip"], held_out),
        (
            "the judge on noisy, halved, shuffled ones",
            f"{judge['noisy']:.2f}, {judge['half']:.2f}, {judge['shuffled']:.2f}",
            held_out,
        ),
        ("the judge's agreement with chance labels on noise", judge["noise"], f"{judge['n']} noise images"),
        ("Frechet distance, generated", images["frechet"], "pixels as features, against the training images"),
        ("Frechet distance, held-out real", images["frechet_of_held_out"], "the same, for comparison: real but fewer"),
        (
            "nearest training picture, generated",
            images["nearest_training_distance"],
            "root-mean-square pixel distance; 0 is a copy",
        ),
        ("nearest training picture, held-out real", images["nearest_training_distance_of_held_out"], held_out),
        ("captions exactly right", captions["accuracy"], captions["measured_on"]),
        ("bits per byte of captions", text["bits_per_byte"], text["measured_on"]),
        ("bits per byte without the picture", text["bits_per_byte_without_image"], "the same captions, given nothing"),
        *_tokenizer_rows(found["tokenizers"]),
    ]


def _tokenizer_rows(reports: dict[str, dict]) -> list[tuple[str, float | int | str, str]]:
    """Every number that the training of a tokenizer reported."""
    rows = []
    for name, measured in reports.items():
        for what, value in measured.items():
            if what != "measured_on":
                rows.append((f"{name} tokenizer, {what.replace('_', ' ')}", value, measured["measured_on"]))
    return rows
