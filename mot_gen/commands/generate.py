"""What `mot-gen generate` does: register, generate.

Items are checked, and those that are made already are put aside, before anything heavy is loaded; then they are made in
batches of one direction and the same options. Every sample has its own seed (the item's, plus its number among the
item's samples), so that it is the same alone, in a folder's run and in batches of another size.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import groupby
from pathlib import Path
from typing import Any

from mot_gen.checkpoints import find
from mot_gen.commands.early import refuse_unwritable
from mot_gen.commands.generate_inputs import SUFFIXES, Item, Request, printable
from mot_gen.commands.generate_items import items_of
from mot_gen.commands.generate_outputs import save
from mot_gen.commands.generate_samples import Generation, Sample, examine, is_made, samples_of
from mot_gen.commands.options import add_dtype
from mot_gen.errors import InputError, one_line
from mot_gen.pipelines.directions import INPUTS, KINDS, OPTIONS, flag

# What the options of the pipelines say, in the words of the command's help.
HELP = {
    "negative_prompt": "what guidance leads away from",
    "height": "of the pictures, in pixels; default: the checkpoint's",
    "width": "of the pictures, in pixels; default: the checkpoint's",
    "num_inference_steps": "steps in which a picture is drawn; default: the checkpoint's",
    "guidance_scale": "how strongly the prompt counts; 1 is off; default: the checkpoint's",
    "image_guidance_scale": "how strongly a picture that is edited counts; 1 is off",
    "strength": "how much of a given picture is drawn anew, from 0 to 1",
    "language": "of captions, such as en, where the checkpoint lists some; any: the likeliest; default: its first",
    "max_new_tokens": "the longest text, or speech, in tokens",
    "temperature": "how random texts are; 0 is greedy, which is the default",
    "top_p": "the likeliest tokens that together are this likely; default: all",
}
METAVARS = {str: "TEXT", int: "N", float: "X"}


@dataclass
class _Failures:
    """Items that could not be made: named as they come, and too many end the run."""

    items: int
    most: int
    names: set[str] = field(default_factory=set)

    def add(self, item: Item, error: InputError) -> None:
        if self.items == 1:
            raise error
        if item.name in self.names:  # by another of its samples
            return
        self.names.add(item.name)
        name, reason = printable(item.where), one_line(error)
        what = reason if name in reason else f"{name}: {reason}"
        print(f"mot-gen: skipped {what}", file=sys.stderr, flush=True)
        if len(self.names) > self.most:
            raise InputError(f"{len(self.names)} items could not be made, more than --max-failures {self.most}")


def generate(checkpoint: str | Path, request: Request) -> Iterator[dict]:
    """Make what a request asks, a dict a sample as it is made: `id`, `seed`, the inputs, `file` where something was
    written, `text` of a text, and `kept` where it was there already. InputError for what concerns all items, for a lone
    item, and at the end where some items could not be made."""
    generation = Generation(find(checkpoint), request)
    generation.check_index()
    items = items_of(request)
    failures = _Failures(len(items), request.max_failures)
    samples = _samples(items, generation, failures)
    kept = {number for number, sample in enumerate(samples) if is_made(sample, request)}
    for number in sorted(kept):
        yield samples[number].summary | {"kept": True}
    missing = [sample for number, sample in enumerate(samples) if number not in kept]
    for folder in {sample.path.parent for sample in missing if sample.path is not None}:
        refuse_unwritable(folder)
    for batch in _batches(missing, request.batch_size):
        yield from _make(batch, generation, failures)
    if failures.names:
        raise InputError(f"{len(failures.names)} of {len(items)} items could not be made; they are named above")


def _samples(items: Sequence[Item], generation: Generation, failures: _Failures) -> list[Sample]:
    """The samples of all items that can be made."""
    samples: list[Sample] = []
    alone = len(items) == 1
    for item in items:
        try:
            direction, about = examine(item, generation, alone)
        except InputError as error:
            failures.add(item, error)
        else:
            samples += samples_of(item, direction, about, generation.request, alone)
    return samples


def _batches(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    for _, group in groupby(samples, key=lambda sample: sample.group):
        together = list(group)
        step = size if together[0].direction.batched else 1
        yield from (together[start : start + step] for start in range(0, len(together), step))


def _make(batch: list[Sample], generation: Generation, failures: _Failures) -> Iterator[dict]:
    """Make a batch; where the pipeline refuses it, each of its samples alone, to find those that it refuses."""
    first = batch[0]
    inputs, seeds = [sample.item.inputs for sample in batch], [sample.seed for sample in batch]
    loaded = generation.loaded
    try:
        results = loaded.run(first.direction, inputs, seeds, first.item.options)
    except Exception as error:  # of one input; the others are still made
        if len(batch) == 1:
            failures.add(first.item, _reason_of(error, failures))
        else:
            for sample in batch:
                yield from _make([sample], generation, failures)
        return
    for sample, result in zip(batch, results):
        yield _write(sample, result)


def _reason_of(error: Exception, failures: _Failures) -> InputError:
    """What a failed item is skipped with. An unexpected error of a lone item is raised as it is."""
    if isinstance(error, InputError):
        return error
    if failures.items == 1:
        raise error
    return InputError(f"{type(error).__name__}: {error}")


def _write(sample: Sample, result: Any) -> dict:
    to = sample.direction.to
    if sample.path is not None:
        save(result, to, sample.path, sample.about)
    if to == "vector":
        result = json.dumps(result.tolist())
    if to == "any":
        texts = [segment for segment in result if isinstance(segment, str)]
        if sample.path is None and len(texts) < len(result):
            raise InputError("--to any drew a picture; say where pictures go, with --out FOLDER")
        result = "\n".join(texts)
    return sample.summary | {"text": result} if isinstance(result, str) else sample.summary


# ---------------------------------------------------------------- the command


def register(commands) -> None:
    """Add `generate` to the commands of mot-gen."""
    command = commands.add_parser("generate", help="pictures, texts, speech or documents from a checkpoint")
    command.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="a run's folder, its model/ folder, or a shipped name"
    )
    command.add_argument("--to", required=True, choices=KINDS, help="what to make; any is texts and pictures")
    command.add_argument("--prompt", metavar="TEXT", action="append", help="may be given many times")
    for kind in SUFFIXES:
        command.add_argument(f"--{kind}", metavar="PATH", nargs="+", action="extend", help="files, or a folder of them")
    command.add_argument(
        "--records", metavar="FILE", help="a .jsonl of prompts or of objects: inputs, id, seed, options"
    )
    command.add_argument("--outside-media", action="store_true", help="--records may name files outside of its folder")
    command.add_argument("--out", metavar="PATH", help="a file; or a folder, whose missing files are made")
    command.add_argument("--num", type=int, default=1, metavar="N", help="samples of each input; seeds count up")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn at random; default: 0")
    command.add_argument(
        "--batch-size", type=int, default=16, metavar="N", help="samples at a time; results do not depend on it"
    )
    command.add_argument("--max-failures", type=int, default=10, metavar="N", help="inputs that may fail; default: 10")
    command.add_argument("--redo", action="store_true", help="make also what is in the folder already")
    add_dtype(command)
    command.add_argument(
        "--weights",
        choices=("memory", "disk", "int8"),
        default="memory",
        help="where the model's weights are held; default: memory",
    )
    command.add_argument(
        "--compile", action="store_true", help="with torch.compile first: half a minute that pays for many samples"
    )
    for name, type_ in OPTIONS.items():
        command.add_argument(flag(name), type=type_, metavar=METAVARS[type_], help=HELP.get(name))
    command.add_argument("--json", action="store_true", help="a JSON object a line for each sample")
    command.set_defaults(func=_generate)


def _generate(arguments) -> int:
    given = vars(arguments)
    taken = {each.name: given[each.name] for each in fields(Request) if each.name in given}
    taken |= {kind: tuple(given[kind] or ()) for kind in INPUTS}
    options = {name: given[name] for name in OPTIONS if given[name] is not None}
    request = Request(**taken, options=options)
    kept = 0
    for made in generate(arguments.checkpoint, request):
        kept += "kept" in made
        line = json.dumps(made, ensure_ascii=False) if arguments.json else made.get("file") or made["text"]
        print(line, flush=True)
    if kept:
        print(f"mot-gen: {kept} of these were there already; --redo makes them again", file=sys.stderr)
    return 0
