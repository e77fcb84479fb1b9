"""A checkpoint as a source for `mot-gen eval`: draw_images and write_captions, into folders where samples are kept.

A folder is named by a hash of all that its samples depend on, which also lies in it as its provenance and stands in the
results. Every sample has a seed of its own, so that a run which was cut off goes on with what is missing, and neither
batches nor interruptions change a sample.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from mot_gen.checkpoints import find, fingerprint
from mot_gen.data.records import Pair, sample_key
from mot_gen.errors import InputError
from mot_gen.eval.images.extraction import default_cache
from mot_gen.eval.jsonl import provenance_file, provenance_of
from mot_gen.files.atomic import write_json, write_text
from mot_gen.files.pictures import save_png
from mot_gen.files.progress import counted
from mot_gen.pipelines.image_to_text import ImageToTextPipeline
from mot_gen.pipelines.loaded import load_pipeline
from mot_gen.pipelines.settings import PictureSettings
from mot_gen.pipelines.text_to_image import TextToImagePipeline
from mot_gen.reports.generated import caption_losses, draw, in_batches, write


@dataclass(frozen=True)
class SampleRequest:
    """What to make with a checkpoint. folder: where samples are kept; None: in the user's cache. settings: of pictures,
    where they are not the checkpoint's own."""

    checkpoint: str
    seed: int = 0
    batch_size: int = 64
    folder: str | None = None
    settings: PictureSettings = field(default_factory=PictureSettings)

    def settle(self, facts: dict) -> Path:
        """The folder for samples that depend on `facts`; InputError where it holds those of others."""
        settings = {"model": fingerprint(find(self.checkpoint)), "seed": self.seed, **facts}
        name = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
        folder = Path(self.folder) if self.folder else default_cache().parent / "samples" / name
        _refuse_others(folder, settings)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(provenance_file(folder), settings, indent=1)
        print(f"samples are kept in {folder}", file=sys.stderr)
        return folder


def _refuse_others(folder: Path, settings: dict) -> None:
    """InputError where a folder holds files that are not samples of these settings."""
    there = provenance_of(folder)
    if not there:
        if folder.is_dir() and any(folder.iterdir()):
            raise InputError(f"{folder}: holds files but no samples of a checkpoint; give a new --samples folder")
        return
    for key in {**there, **settings}:
        before, now = there.get(key), settings.get(key)
        if before != now:
            raise InputError(f"{folder}: holds samples of {key} {before!r}, not {now!r}; give another --samples folder")


def draw_images(request: SampleRequest, prompts: Sequence[str], num: int | None = None) -> Path:
    """A folder of `num` pictures (one a prompt, if None), the prompts in turn: NNNNNN.png, each with its prompt and
    seed inside, and samples.jsonl."""
    num = len(prompts) if num is None else num
    if num < 1:
        raise InputError(f"--num must be at least 1, got {num}")
    pipe = cast("TextToImagePipeline", load_pipeline(TextToImagePipeline, request.checkpoint))
    settings = request.settings.settled(pipe.config.sampling or {})
    facts = {
        "prompts": _sha256(prompts),
        "num": num,
        "num_inference_steps": settings.num_inference_steps,
        "guidance_scale": settings.guidance_scale,
        "scheduler": type(pipe.scheduler).__name__ if pipe.scheduler else None,
    }
    folder = request.settle(facts)
    rows: list[dict[str, Any]] = []
    for number in range(num):
        prompt = prompts[number % len(prompts)]
        rows.append({"image": f"{number:06d}.png", "prompt": prompt, "seed": _seed(request.seed, number)})
    missing = [row for row in rows if not (folder / row["image"]).exists()]
    for chunk in _batches(missing, request.batch_size, "drawing"):
        asked = [row["prompt"] for row in chunk]
        seeds = [row["seed"] for row in chunk]
        images = draw(pipe, asked, seeds, request.batch_size, **settings.given())
        for image, row in zip(images, chunk):
            save_png(image, folder / row["image"], {**row, **facts})
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_text(folder / "samples.jsonl", lines)
    return folder


def write_captions(request: SampleRequest, pairs: Sequence[Pair]) -> Path:
    """predictions.jsonl, a line a pair: the caption written greedily, the pair's own as references, and `nats`, the
    loss of the first of them given the picture."""
    pipe = cast("ImageToTextPipeline", load_pipeline(ImageToTextPipeline, request.checkpoint))
    facts = {"pairs": _sha256([[pair.id, *pair.captions] for pair in pairs]), "decoding": "greedy"}
    path = request.settle(facts) / "predictions.jsonl"
    done = _whole_lines(path)
    with path.open("a", encoding="utf-8") as file:
        for chunk in _batches(pairs[done:], request.batch_size, "captioning"):
            spans = pipe.seen([pair.image for pair in chunk], drawn=False)
            losses = caption_losses(pipe, spans, [pair.captions[0] for pair in chunk]).tolist()
            for pair, text, nats in zip(chunk, write(pipe, spans, request.batch_size), losses):
                row = {"id": pair.id, "prediction": text, "references": pair.captions, "nats": nats}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
    return path


def _whole_lines(path: Path) -> int:
    """How many lines a file has; what a kill left of another one is cut off."""
    content = path.read_bytes() if path.exists() else b""
    if not content.endswith(b"\n"):
        path.write_bytes(content[: content.rfind(b"\n") + 1])
    return content.count(b"\n")


def _seed(seed: int, number: int) -> int:
    return sample_key(f"eval/{seed}/{number}") >> 1


def _sha256(items: Sequence) -> str:
    return hashlib.sha256(json.dumps(items, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()


def _batches(items: Sequence, size: int, what: str) -> Iterator[Sequence]:
    if not items:
        return
    with counted(len(items), what) as advance:
        for batch in in_batches(items, size):
            yield batch
            advance(len(batch))
