"""Networks of transformers, and what prepares their inputs, from local folders: network_of, processor_of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mot_gen.errors import InputError, one_line, require
from mot_gen.files.random_weights import refuse_random

LONGEST = 150  # characters of another library's message that ours repeat


def network_of(kind: Any, folder: str | Path, remedy: str) -> Any:
    """The network of a folder in float32, evaluating.

    kind: a class of transformers. remedy: what to do about a folder without a model, as "save a CLIP there". InputError
    for such a folder, for another kind of network, and for one that lacks weights (mot_gen.files.random_weights).
    """
    require((Path(folder) / "config.json").exists(), f"{folder}: no config.json; {remedy}")
    network, loading = _read(kind, folder, dtype=torch.float32, output_loading_info=True)
    refuse_random(network, loading, folder, remedy)
    return network.eval()


def processor_of(kind: Any, folder: str | Path) -> Any:
    """The tokenizer or processor beside a network; kind: a class of transformers. InputError where there is none."""
    return _read(kind, folder)


def _read(kind: Any, folder: str | Path, **options: Any) -> Any:
    try:
        with _in_silence():
            return kind.from_pretrained(folder, local_files_only=True, **options)
    except Exception as error:  # foreign files can make transformers raise anything
        reason = one_line(error)[:LONGEST]
        raise InputError(f"{folder}: cannot be read by {kind.__name__} of transformers ({reason})") from error


@contextmanager
def _in_silence() -> Iterator[None]:
    """Without transformers' progress bar, and its table of weights that do not fit: network_of says what matters."""
    from transformers.utils import logging

    level, shows_progress = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shows_progress:
            logging.enable_progress_bar()
