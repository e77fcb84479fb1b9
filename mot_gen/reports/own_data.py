"""The report of a run on data without a task: show, own_summary.

Nobody knows the right class of such a picture, so the page shows held-out pictures beside what the model draws from
their captions and writes about them, and says how likely the captions are. `report.json` and `report.html` lie in the
run's folder, as those of data with a task.
"""

from __future__ import annotations

import html
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from mot_gen.errors import InputError
from mot_gen.files.atomic import write_json, write_text
from mot_gen.files.image_files import load_image
from mot_gen.files.pictures import enlarge, grid, save_png
from mot_gen.pipelines.image_to_text import ImageToTextPipeline
from mot_gen.pipelines.text_to_image import TextToImagePipeline
from mot_gen.reports import page
from mot_gen.reports.generated import HeldOut, draw, pictures_of, write
from mot_gen.reports.hooks import pipeline_of
from mot_gen.reports.judge_run import progress_section, train_facts
from mot_gen.training.loop import REPORT, Run

SHOWN = 24  # held-out pairs on the page
MEASURED = 500  # held-out captions, at most, whose bits are counted


def show(run: Run) -> None:
    """Write `report.json`, `samples.png` and `report.html`; nothing where no held-out picture has a caption, or where
    pictures are only read."""
    if not getattr(run.tokenizers["image"], "decodes", True):
        return
    held_out = HeldOut(run.splits.held_out, SHOWN)
    try:
        pairs = held_out.pairs
    except InputError:
        return
    print(f"drawing and captioning {len(pairs)} held-out pictures", file=sys.stderr, flush=True)
    seeds = range(run.recipe.training.seed, run.recipe.training.seed + len(pairs))
    pictures = list(draw(pipeline_of(run, TextToImagePipeline), held_out.captions, seeds))
    writer = pipeline_of(run, ImageToTextPipeline)
    texts = list(write(writer, held_out.seen(writer)))
    real = [load_image(picture) for picture in pictures_of(pairs, writer.image_tokenizer)]
    found = {"train": train_facts(run, "samples"), "text": _text(run), "model": str(run.folder / "model")}
    save_png(grid(pictures, 8), run.folder / "samples.png", {"prompts": "\n".join(held_out.captions)})
    sections = [
        ("Held-out pictures, and what it draws from their captions", _beside(real, pictures, held_out.captions)),
        ("What it writes about them", _beside(real, None, texts)),
        ("The same noise, as training went on", progress_section(run)),
        ("Figures", page.table(_rows(found))),
        ("Losses", page.losses(run.folder, list(run.tokenizers))),
    ]
    made = f"{run.step} steps in {run.seconds:.0f} s; everything on this page was made by this run"
    write_text(run.folder / "report.html", page.page(f"mot_gen {run.recipe.name}", made, sections))
    write_json(run.folder / REPORT, found)


def own_summary(found: dict) -> str:
    """The figures of such a report in a few lines."""
    folder = Path(found["model"]).parent
    return (
        f"bits per byte of held-out captions  {found['text']['bits_per_byte']:.3f}  (N = {found['text']['n']})\n"
        f"training                            {found['train']['seconds']:.0f} s\n"
        f"look at {folder / 'report.html'} and {folder / 'samples.png'}"
    )


def _text(run: Run) -> dict:
    """Bits per byte of held-out captions, given their picture and given nothing."""
    from mot_gen.eval.text.likelihood import BitsPerByte

    held_out, found = HeldOut(run.splits.held_out, MEASURED), {}
    for name, with_picture in (("bits_per_byte", True), ("bits_per_byte_without_image", False)):
        metric = BitsPerByte()
        metric.update(held_out.losses(pipeline_of(run), with_picture), held_out.captions)
        found[name] = metric.compute().value
    return found | {"n": len(held_out.captions), "measured_on": f"{len(held_out.captions)} held-out captions"}


def _rows(found: dict) -> list[tuple[str, float | int | str, str]]:
    text = found["text"]
    return [
        ("training, seconds", found["train"]["seconds"], found["train"]["measured_on"]),
        ("bits per byte of captions", text["bits_per_byte"], text["measured_on"]),
        ("bits per byte without the picture", text["bits_per_byte_without_image"], "the same captions, given nothing"),
    ]


def _beside(real: Sequence[Image.Image], pictures: Sequence[Image.Image] | None, texts: Sequence[str]) -> str:
    """Each held-out picture, the one that was drawn (if any), and a text."""
    figures = []
    for number, (picture, text) in enumerate(zip(real, texts)):
        shown = [picture]
        if pictures is not None:
            shown.append(pictures[number])
        images = "".join(page.picture(enlarge(image.convert("RGB")), text) for image in shown)
        figures.append(f"<figure>{images}<figcaption>{html.escape(text)}</figcaption></figure>")
    return "".join(figures)
