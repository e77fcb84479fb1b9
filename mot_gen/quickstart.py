"""The quickstart: train on the embedded set, generate both ways, measure, write a report with pictures."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mot_gen import report
from mot_gen.callbacks import hooks
from mot_gen.errors import InputError
from mot_gen.measure import Measured, measure_captions, measure_images, measure_text
from mot_gen.pictures import grid
from mot_gen.tokenizers.image_files import load_image
from mot_gen.training import digits
from mot_gen.training.loop import Run, train
from mot_gen.training.recipe import differences, load_recipe
from mot_gen.training.records import Pair
from mot_gen.training.task import Task


def quickstart(out: str | Path = Path("runs") / "digits", overrides: Sequence[str] = ()) -> dict:
    """Run all of it, by the recipe `digits` with its overrides, in the folder `out`. Returns what `report.json` holds.

    A run that was interrupted goes on; one that is finished is measured again.
    """
    folder, recipe = Path(out), load_recipe("digits", list(overrides))
    if recipe.data.source != "digits":
        raise InputError(f"data.source: the quickstart judges digits, not {recipe.data.source}; use mot-gen train")
    earlier = folder / "recipe.yaml"
    resume = (folder / "checkpoints" / "latest").exists()
    if resume and earlier.exists() and (changed := differences(load_recipe(earlier), recipe)):
        raise InputError(f"{folder}: was begun with another recipe ({changed[0]}); remove it, or give another --out")
    task = digits.task()
    _say(f"training on {task.what}: {recipe.training.steps} steps, into {folder}")
    run = train(recipe, folder, resume, hooks(recipe))
    _say(f"drawing and judging {recipe.evaluation.samples} {task.what}")
    images = measure_images(run, task, recipe.evaluation.samples)
    _say(f"captioning {len(run.splits.held_out)} held-out {task.what}")
    captions, judged = measure_captions(run, task)
    found = {
        "train": {
            "seconds": run.seconds,
            "steps": run.step,
            "measured_on": f"{len(run.splits.train)} {task.what}, {os.cpu_count()} CPU cores seen",
            "n": len(run.splits.train),
            "tokens": run.tokens,
            "flops": run.flops,
        },
        "images": images.figures,
        "captions": captions,
        "text": measure_text(run),
        "model": str(folder / "model"),
    }
    (folder / "report.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    _pictures(run, task, images, judged, found)
    return found


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _pictures(run: Run, task: Task, images: Measured, judged: list[tuple[Pair, str, bool]], found: dict) -> None:
    """`samples.png`, the generated pictures a class a column, and `report.html`."""
    classes = len(task.classes)
    shown = images.pictures[: 6 * classes]
    grid(shown, classes).save(run.folder / "samples.png")
    color = "L" if run.tokenizers["image"].color_channels == 1 else "RGB"
    real = [next(p for p in run.splits.held_out if task.label(p) == k) for k in range(classes)]
    captions = [(load_image(pair.image, color), text, right) for pair, text, right in _mixed(judged)]
    losses = _losses(run)
    sections = [
        (
            "Drawn from captions",
            f"<p>One class a column: {', '.join(task.classes)}.</p>" + report.sheet(shown, classes, "generated"),
        ),
        ("Real ones, never trained on", report.sheet([load_image(p.image, color) for p in real], classes, "real")),
        ("Captions it wrote for pictures it never saw", f"<p>{_how_many(judged)}</p>" + report.captioned(captions)),
        ("The same noise, as training went on", _progress(run)),
        ("Figures", report.table(_rows(found))),
        ("Losses", report.curves(losses)),
    ]
    made = f"{run.step} steps in {run.seconds:.0f} s; everything on this page was made by this run"
    text = report.page(f"mot_gen quickstart: {task.what}", made, sections)
    (run.folder / "report.html").write_text(text, encoding="utf-8")


def _how_many(judged: list[tuple[Pair, str, bool]]) -> str:
    wrong = sum(not right for *_, right in judged)
    return f"{wrong} of {len(judged)} are wrong; the first of those stand last, in red, and the others are a sample."


def _progress(run: Run) -> str:
    """The recipe's prompts at every `training.sample_every` steps."""
    sheets = sorted((run.folder / "samples").glob("step-*.png"))
    return "".join(
        f"<p>step {int(path.stem.removeprefix('step-'))}</p>{report.picture(load_image(path, 'RGB'), path.stem)}"
        for path in sheets
    )


def _mixed(judged: list[tuple[Pair, str, bool]], count: int = 24) -> list[tuple[Pair, str, bool]]:
    """Some of the captions: up to six wrong ones, so that they are seen, and right ones spread over the set."""
    wrong = [each for each in judged if not each[2]][:6]
    right = [each for each in judged if each[2]]
    stride = max(1, len(right) // (count - len(wrong)))
    return right[::stride][: count - len(wrong)] + wrong


def _losses(run: Run) -> dict[str, list[tuple[float, float]]]:
    lines: dict[str, list[tuple[float, float]]] = {}
    for line in (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        for name, value in entry["losses"].items():
            lines.setdefault(name, []).append((entry["step"], value))
    return lines


def _rows(found: dict) -> list[tuple[str, float | int | str, str]]:
    images, captions, text, judge = found["images"], found["captions"], found["text"], found["images"]["judge"]
    held_out = f"{judge['n']} held-out real images"
    return [
        ("training, seconds", found["train"]["seconds"], found["train"]["measured_on"]),
        ("generated pictures of the asked class", images["class_accuracy"], images["measured_on"]),
        ("the judge on real pictures", judge["real"], held_out),
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
    ]
