"""What a model may be asked and may answer, written beside it: write_answers."""

from __future__ import annotations

from pathlib import Path

from mot_gen.checkpoints.folders import ANSWERS
from mot_gen.files import manifest
from mot_gen.pipelines.captions import languages
from mot_gen.recipes.implementations import locate


def write_answers(folder: Path, source: str) -> None:
    """Write `model/answers.json` into the folder of a pipeline, where the model's data say what it was taught to say.

    source: `data.source` of its recipe. A module of data may have `answers()`, see `pipelines/captions/languages.py`.
    InputError without the packages that the data need.
    """
    module = locate("mot_gen.datasets", source)
    if hasattr(module, "answers"):
        languages.write(module.answers(), folder / "model" / ANSWERS)
        manifest.write(folder)
