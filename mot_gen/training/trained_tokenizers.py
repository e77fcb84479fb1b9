"""Tokenizers that a run trains before its model: untrained_tokenizer, trained_tokenizer.

A recipe asks for it with `train:` beside a tokenizer's kind. What trains the kind `depth` is the module `train_depth`
beside it, which provides

    Training                     a dataclass: the options under `train`, `steps` among them
    untrained(**options)         the tokenizer to begin with; its arguments are the options beside `kind`
    train(tokenizer, raws, options, folder, report, stop)
                                 trains in place on (id, raw) pairs. It keeps a checkpoint of its own in `folder` and
                                 goes on from it; calls report(step, **losses) now and then; and where stop() says so,
                                 writes a checkpoint and raises Interrupted
    measure(tokenizer, raws)     what of such pairs the tokenizer keeps, by name

A finished tokenizer's folder holds it as `save_pretrained` writes it, `inputs.json` (what it was made from),
`report.json` (its measure on held-out samples), and a manifest, which is written last.
"""

from __future__ import annotations

import importlib
import json
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from mot_gen.data import records
from mot_gen.data.encoded import Encoded
from mot_gen.errors import InputError, Interrupted
from mot_gen.files import manifest
from mot_gen.files.atomic import write_json
from mot_gen.files.progress import Progress
from mot_gen.files.stopping import stop_signals
from mot_gen.recipes.implementations import trainer_name
from mot_gen.recipes.recipe import differing
from mot_gen.recipes.sections import Data, Tokenizer
from mot_gen.tokenizers.pretrained import move

CPU = torch.device("cpu")
INPUTS, REPORT, CHECKPOINT = "inputs.json", "report.json", "training"


def untrained_tokenizer(section: Tokenizer) -> Any:
    """The tokenizer that training begins with, always the same for the same seed; its modality is that of the end."""
    trainer = _trainer(section)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(getattr(_training(section), "seed", 0))
        return trainer.untrained(**section.options)


def trained_tokenizer(
    name: str, section: Tokenizer, splits: records.Splits, folder: Path, device: torch.device = CPU
) -> Any:
    """The tokenizer of modality `name`, trained on the training split, in `folder`: a finished one is read again, one
    that was stopped goes on. InputError where the folder holds one that was made from something else. device: on which
    it is trained."""
    inputs = {
        "kind": section.kind,
        "options": section.options,
        "train": section.train,
        "samples": records.fingerprint(splits.train),
    }
    _claim(folder, json.loads(json.dumps(inputs)))  # tuples as JSON gives them back
    tokenizer = untrained_tokenizer(section)
    move([tokenizer], device)
    if not (folder / manifest.NAME).exists():
        _train(name, section, tokenizer, splits, folder)
    elif damage := manifest.damage(folder):
        raise InputError(f"{damage}; remove {folder} to train this tokenizer again")
    return type(tokenizer).from_pretrained(folder)


def _claim(folder: Path, inputs: dict) -> None:
    """Writes what the folder's tokenizer is made from, or holds it to what is written there."""
    if changed := differing(manifest.claim(folder / INPUTS, inputs), inputs):
        raise InputError(
            f"{folder}: its tokenizer was made with other settings ({changed[0]}); remove it, or give another --out"
        )


def _train(name: str, section: Tokenizer, tokenizer, splits: records.Splits, folder: Path) -> None:
    trainer, options = _trainer(section), _training(section)
    with stop_signals() as stop, Progress(options.steps) as bar:
        bar.note(f"training the {name} tokenizer on {len(splits.train)} samples: {options.steps} steps, into {folder}")

        def report(step: int, **losses: float) -> None:
            bar.names = list(losses)
            bar.update(step, **losses)

        raws = raw_parts(splits.train, name)
        trainer.train(tokenizer, raws, options, folder / CHECKPOINT, report, lambda: stop.requested)
        found = _measured(trainer, name, tokenizer, splits)
        bar.note(f"{name} tokenizer: " + "  ".join(f"{k.replace('_', ' ')} {v}" for k, v in _rounded(found).items()))
        _finish(tokenizer, found, folder)
        if stop.requested:
            raise Interrupted(f"stopped after the {name} tokenizer; the same command goes on")


def _measured(trainer: ModuleType, name: str, tokenizer, splits: records.Splits) -> dict[str, Any]:
    samples, which = splits.train, "training"
    if len(splits.held_out):
        samples, which = splits.held_out, "held-out"
    found = trainer.measure(tokenizer, raw_parts(samples, name))
    return {**found, "measured_on": f"{len(samples)} {which} samples"}


def _rounded(found: dict[str, Any]) -> dict[str, Any]:
    shown = dict(found)
    for name, value in found.items():
        if isinstance(value, float):
            shown[name] = f"{value:.4g}"
    return shown


def _finish(tokenizer, found: dict[str, Any], folder: Path) -> None:
    """The folder as it stays: the tokenizer and its report, then the manifest, by which it counts as finished."""
    tokenizer.save_pretrained(folder)
    write_json(folder / REPORT, found)
    shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)
    manifest.write(folder)


def raw_parts(samples: Sequence[records.Sample], kind: str) -> Iterator[tuple[str, Any]]:
    """(id, raw) of every part of a kind in the samples, in their order."""
    as_is = Data(caption_dropout=0.0)
    for sample in samples:
        parts = [part for part in sample.arrange(random.Random(0), as_is) if part.kind == kind]
        for i, part in enumerate(parts):
            if isinstance(part.value, Encoded):
                raise InputError(
                    f"{sample.id}: its {kind} is tokens already, on which no tokenizer can be trained; "
                    f"give tokenizers.{kind}.path=FOLDER of the one that made them"
                )
            yield (f"{sample.id}/{i}" if i else sample.id), part.value


def _trainer(section: Tokenizer) -> ModuleType:
    return importlib.import_module(trainer_name(section.kind))


def _training(section: Tokenizer) -> Any:
    assert section.train is not None
    return _trainer(section).Training(**section.train)
