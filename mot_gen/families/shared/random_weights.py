"""What the tiny models of families are made of: TINY_TOWER, byte_tokenizer, published_shapes, random_tensors,
randomise; and write_tiny, write_configs.

Every number is random, norms and biases too: at their initial values a tensor that nobody reads would not show.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mot_gen.families.shared.table import Entry

# The language model of a tiny model, in the words of transformers.
TINY_TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def byte_tokenizer(first: Sequence[str]):
    """Tokens of these names, then the 256 bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = [*first, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    bpe = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, []))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bpe.add_special_tokens(list(first))
    return PreTrainedTokenizerFast(tokenizer_object=bpe)


def published_shapes(module: nn.Module, table: Sequence[Entry]) -> dict[str, torch.Size]:
    """The shape of every published tensor of a module of ours. One that is taken in parts along its first dimension has
    as many rows as they reach; an index in place of a part stands for one row."""
    ours = {name: torch.zeros(own.shape) for name, own in module.state_dict().items()}
    found: dict[str, torch.Size] = {}
    for entry in table:
        shape = _shape_reached(entry, ours[entry.ours])
        before = found.get(entry.theirs, shape)
        found[entry.theirs] = max(before, shape, key=lambda size: size[:1])
    return found


def _shape_reached(entry: Entry, ours: Tensor) -> torch.Size:
    """The smallest shape of a published tensor that has the part which an entry takes."""
    part = entry.back(ours)
    taken = entry.taken[0] if entry.taken else slice(None)
    if isinstance(taken, int):
        return torch.Size([taken + 1, *part.shape])
    return torch.Size([(taken.start or 0) + len(part), *part.shape[1:]])


def random_tensors(shapes: Mapping[str, torch.Size], generator: torch.Generator) -> dict[str, Tensor]:
    """Normal numbers, those of norms about 1; variances are positive and counts are whole."""
    made = {}
    for name, shape in sorted(shapes.items()):
        norm = "norm" in name and name.endswith("weight")
        values = norm + 0.2 * torch.randn(shape, generator=generator)
        if name.endswith("running_var"):
            values = values.abs() + 0.5
        made[name] = values
    return made


@torch.no_grad()
def randomise(model: nn.Module, generator: torch.Generator) -> None:
    """Give every parameter and every statistic of a model of others a random value."""
    for name, tensor in sorted(model.state_dict().items()):
        if tensor.is_floating_point():
            tensor.copy_(random_tensors({name: tensor.shape}, generator)[name])


def write_tiny(folder: Path, model: Any, text: Any) -> None:
    """Write a model of transformers, every weight random, and its tokenizer."""
    randomise(model, torch.Generator().manual_seed(0))
    model.save_pretrained(folder)
    text.save_pretrained(folder)


def write_configs(folder: Path, configs: Mapping[str, Any]) -> None:
    """Write JSON files, by their names, into a folder that is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, config in configs.items():
        (folder / name).write_text(json.dumps(config), encoding="utf-8")
