"""`mot-gen export`: a run's weights as a checkpoint to give away, in half precision and in shards; register,
pipeline_to_export.

Of a run that has not ended, was killed, or went on after its end, the newest good checkpoint is exported.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from shlex import quote

from mot_gen.checkpoints import find
from mot_gen.checkpoints.folders import ANSWERS, refuse_foreign_recipe
from mot_gen.checkpoints.storage import DTYPES
from mot_gen.commands.early import refuse_unwritable
from mot_gen.errors import InputError, require
from mot_gen.files import manifest
from mot_gen.files.atomic import write_text, writing_folder
from mot_gen.files.stopping import stopping_at_once
from mot_gen.training.checkpoint_folders import steps_of


def register(commands) -> None:
    """Add the command `export`."""
    command = commands.add_parser("export", help="a run as a folder that every pipeline loads, ended or not")
    command.add_argument("run", metavar="RUN", help="a run's folder, or a checkpoint's")
    command.add_argument("out", type=Path, metavar="OUT", help="folder to write; must not exist, or be empty")
    command.add_argument("--dtype", choices=DTYPES, default="fp32", help="of the weights in the files (default: fp32)")
    command.add_argument("--max-shard-size", metavar="SIZE", default="5GB", help="of a file, such as 16MB")
    command.set_defaults(func=export_command)


def export_command(arguments: argparse.Namespace) -> int:
    """`mot-gen export`: whole or not at all."""
    out, size = arguments.out, arguments.max_shard_size
    if not re.fullmatch(r"[1-9]\d*(KB|MB|GB)", size):
        raise InputError(f"--max-shard-size {size}: give a number and KB, MB or GB, such as 16MB")
    is_free = not out.exists() or (out.is_dir() and not any(out.iterdir()))
    require(is_free, f"{out}: is there already; give another folder")
    refuse_unwritable(out)
    if not _is_unfinished(Path(arguments.run)):
        find(arguments.run)

    import torch

    with stopping_at_once(f"stopped; {out} was not written"):
        pipe = pipeline_to_export(arguments.run).to(getattr(torch, DTYPES[arguments.dtype]))
        with writing_folder(out) as part:
            pipe.save_pretrained(part, max_shard_size=size)
            _list_answers(part, Path(arguments.run) / "recipe.yaml")
            _forget_where(part)
    written = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out}: {written / 1e6:.1f} MB; mot-gen info {quote(str(out))}")
    return 0


def _list_answers(folder: Path, recipe: Path) -> None:
    """Say what a run's data list of answers, where its model does not say so already. Only data that are shipped are
    asked, since a run's folder may be anybody's, and only where the packages that they need are installed."""
    from mot_gen.recipes.fitting import SOURCES
    from mot_gen.recipes.recipe import read_mapping
    from mot_gen.reports.answers import write_answers

    is_listed = (folder / "model" / ANSWERS).is_file()
    if is_listed or not recipe.is_file():
        return
    data = read_mapping(recipe).get("data")
    source = data.get("source") if isinstance(data, dict) else None
    if source in SOURCES:
        try:
            write_answers(folder, source)
        except InputError as error:
            print(f"mot-gen: {ANSWERS} is left out: {error}", file=sys.stderr)


def _forget_where(folder: Path) -> None:
    """Configs name the folder that they were loaded from, which is nobody else's business."""
    for path in folder.rglob("*.json"):
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields.pop("_name_or_path", None) is not None:
            write_text(path, json.dumps(fields, indent=2, sort_keys=True) + "\n")
    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)
    manifest.write(folder)


def pipeline_to_export(run: str | Path):
    """The `MultimodalPipeline` of an ended run, a checkpoint's folder or name, or of a run's newest good checkpoint."""
    from mot_gen.pipelines.base import MultimodalPipeline

    folder = Path(run)
    if _is_unfinished(folder):
        return _unfinished(folder)
    from mot_gen.pipelines.loaded import load_pipeline

    return load_pipeline(MultimodalPipeline, run)


def _is_unfinished(folder: Path) -> bool:
    """Whether a run has checkpoints and no model, or went on after its model was written."""
    if not (folder / "checkpoints").is_dir():
        return False
    model = folder / "model" / manifest.NAME
    if not model.exists():
        return not model.parent.is_dir()
    return any(_written(step / manifest.NAME) > _written(model) for step in steps_of(folder))


def _written(path: Path) -> float:
    """When a file was written; 0 where it is not there."""
    return path.stat().st_mtime if path.exists() else 0.0


def _unfinished(folder: Path):
    from mot_gen.recipes.recipe import load_recipe, read_mapping
    from mot_gen.reports.hooks import pipeline_of
    from mot_gen.training.run_state import restore
    from mot_gen.training.runs import prepare

    path = folder / "recipe.yaml"
    refuse_foreign_recipe(path, read_mapping(path))
    run = prepare(load_recipe(str(path)), folder)
    try:
        restore(run)
        return pipeline_of(run)
    finally:
        run.close()
