"""What families in transformers' layout read of a folder: model_type, config_of, special_ids, preprocessor, colours.

Pictures whose tokens come one by one: causal_layout. VQ networks: vq_network and vq_table; where their codes stand in
the vocabulary, codes_in_one_range and in_order_of_ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mot_gen.errors import InputError
from mot_gen.families.shared.conversion import PublishedFolder, outline
from mot_gen.families.shared.table import Entry, Rows
from mot_gen.tokenizers.image_vq_networks import VQNetworkTokenizer


def model_type(folder: Path) -> str | None:
    """What the folder's config.json says that it is of; None where there is no such file, or it does not say."""
    if not (folder / "config.json").is_file():
        return None
    return PublishedFolder(folder).config().get("model_type")


def config_of(folder: Path, kind: str) -> Any:
    """The config of a folder whose model_type is `kind`, as transformers reads it; InputError where it cannot."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers checks each field, and raises what its checks raise
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{folder / 'config.json'}: is no config of {kind} ({reason}); fetch it again") from error
    if config.model_type != kind:
        raise InputError(f"{folder / 'config.json'}: model_type is {config.model_type!r}, not {kind!r}")
    return config


def special_ids(source: PublishedFolder, names: Sequence[str]) -> list[int]:
    """The ids of special tokens in the published tokenizer; InputError where it lacks one."""
    added = {token["content"]: token["id"] for token in source.config("tokenizer.json").get("added_tokens", [])}
    for name in names:
        if name not in added:
            raise InputError(f"{source.folder / 'tokenizer.json'}: has no special token {name}; fetch it again")
    return [added[name] for name in names]


def codes_in_one_range(source: PublishedFolder, found: Mapping[int, int], size: int) -> list[int]:
    """The id of each of `size` codes, of {code: id}; InputError unless they are one range of ids."""
    ids = [found.get(code, -1) for code in range(size)]
    if min(ids) < 0 or sorted(ids) != list(range(min(ids), min(ids) + size)):
        where = source.folder / "config.json"
        raise InputError(f"{where}: vocabulary_map does not name one range of ids for the {size} codes of pictures")
    return ids


def in_order_of_ids(ids: Sequence[int]) -> Rows:
    """The rows of a codebook whose codes are numbered as their ids are. ids: of each published code."""
    return Rows(tuple(sorted(range(len(ids)), key=lambda code: ids[code])))


def causal_layout(source: PublishedFolder, bounds: Sequence[str]) -> dict[str, Any]:
    """The layout of a picture whose tokens come one by one, each seeing what came before it. bounds: names of the
    special tokens around it."""
    begin, end = special_ids(source, bounds)
    return {"begin": begin, "end": end, "bidirectional": False, "position": "sequence"}


def vq_network(
    vq_class: str, config: Any, image_size: Any, layout: Mapping[str, Any], colours: tuple[list, list]
) -> VQNetworkTokenizer:
    """The outline of a VQ network of transformers. config: its own, of the class `vq_class`. image_size and layout: as
    `VQNetworkTokenizer` takes them. colours: the mean and std of pictures, see `colours`."""
    mean, std = colours
    network = {"vq_class": vq_class, "vq_config": config.to_diff_dict()}
    pictures = {"image_size": image_size, "layout": dict(layout), "mean": mean, "std": std}
    return outline(VQNetworkTokenizer, network | pictures)


def vq_table(pictures: VQNetworkTokenizer, prefix: str, codebook: Sequence[Any] = ()) -> list[Entry]:
    """The tensors of a VQ network, whose published names begin with `prefix`. codebook: steps from its codebook to
    ours."""
    steps = {"vq.quantize.embedding.weight": codebook}
    return [Entry(name, prefix + name.removeprefix("vq."), steps.get(name, ())) for name in pictures.state_dict()]


def preprocessor(source: PublishedFolder) -> dict[str, Any]:
    """preprocessor_config.json; empty where there is none."""
    path = source.folder / "preprocessor_config.json"
    return source.config(path.name) if path.is_file() else {}


def colours(source: PublishedFolder, rescale: float = 1 / 255, mean: Any = 0.5, std: Any = 0.5) -> tuple[list, list]:
    """Mean and std of colours in [0, 1] by which the published preprocessor standardises pictures.

    It takes bytes times `rescale_factor`, minus `image_mean`, by `image_std`, of preprocessor_config.json; the
    arguments are what holds where that file does not say."""
    stated = preprocessor(source)
    factor = 255 * stated.get("rescale_factor", rescale)
    shifts = _of_channels(stated.get("image_mean", mean))
    scales = _of_channels(stated.get("image_std", std))
    return [shift / factor for shift in shifts], [scale / factor for scale in scales]


def _of_channels(value: Any) -> Sequence[float]:
    """A number for each of three channels, of one for all or of three."""
    return value if isinstance(value, (list, tuple)) else [value] * 3
