"""The user's own data: load, of the files and folders that `data.records` names."""

from __future__ import annotations

from dataclasses import replace

from mot_gen.data.joined import WeightedSamples
from mot_gen.data.records import Samples, Splits, open_all, split
from mot_gen.recipes.sections import Data


def load(data: Data) -> Splits:
    """The records that a recipe's data section names.

    Held out are its `held_out_records`, or a share of all records. The weights say how often training sees a source;
    what is held out is seen once.
    """
    samples = open_all([records.path for records in data.records], data.outside_media)
    if data.held_out_records:
        splits = Splits(samples, open_all(data.held_out_records, data.outside_media))
    else:
        splits = split(samples, data.held_out, data.split_seed)
    weights = [records.weight for records in data.records]
    if set(weights) == {1}:
        return splits
    assert isinstance(splits.train, Samples)
    return replace(splits, train=WeightedSamples(splits.train, weights))
