"""What tokenizers that can be saved and loaded share: NetworkTokenizer, pretrained_class, loading, whole,
stated_config. move: tokenizers to the device that their networks run on; usual_device."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from diffusers import ConfigMixin, ModelMixin
from safetensors import SafetensorError
from torch import Tensor, nn

from mot_gen.errors import InputError, require
from mot_gen.files.hub import folder_or_name
from mot_gen.tokenizers.fingerprint import fingerprint


def _is_about_a_layer(record: logging.LogRecord) -> bool:
    """Whether a warning of diffusers names a layer.

    Casting a model with `.to(dtype)` always warns of layers that should stay in float32, also where it lists none.
    """
    return "should be kept in float32: []" not in record.getMessage()


logging.getLogger("diffusers.models.modeling_utils").addFilter(_is_about_a_layer)


def pretrained_class(cls: type[ConfigMixin], name, **kwargs) -> str | None:
    """Name of the class whose config.json lies in a folder or under a hub name; raises InputError where none does."""
    where = ("subfolder", "revision", "cache_dir", "local_files_only", "token", "force_download", "proxies")
    place = folder_or_name(name)
    try:
        config: Any = cls.load_config(place, **{key: kwargs[key] for key in where if key in kwargs})
        return config.get("_class_name")
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: no {cls.config_name} of a model found in this folder or hub name") from error


@contextmanager
def loading(name, kind: type) -> Iterator[None]:
    """What diffusers raises for weights that are missing, broken or of other shapes, as one line that names them."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{name}: does not fit a {kind.__name__} ({reason})") from error


Network = TypeVar("Network", bound="nn.Module")


def whole(network: Network, name: str | Path) -> Network:
    """The network. InputError where the folder lacked some of its weights, which diffusers then leaves empty."""
    lacking = sorted(key for key, value in network.state_dict().items() if value.is_meta)
    what = f"{len(lacking)} weights of a {type(network).__name__}, such as {min(lacking, default='')}"
    require(not lacking, f"{name}: lacks {what}; save it again, or fetch it again")
    return network


class ConfiguredModel(ModelMixin, ConfigMixin):
    """A diffusers model with a config."""

    config_name: str = "config.json"  # type: ignore[assignment]  # diffusers annotates it as None, to be overridden

    if TYPE_CHECKING:
        # The config of diffusers is a dictionary whose entries are attributes as well, which its annotation hides.
        @property
        def config(self) -> Any: ...


class NetworkTokenizer(ConfiguredModel):
    """A tokenizer that is a diffusers model: it saves and loads with its weights, alone or within a pipeline. It takes
    what it is given to the device of its weights; the spans that it gives are on the CPU."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """From a folder that `save_pretrained` wrote, or a hub name; raises InputError where the weights do not fit."""
        place = folder_or_name(pretrained_model_name_or_path)
        with loading(place, cls):
            return whole(super().from_pretrained(place, **({"use_safetensors": True} | kwargs)), place)

    @property
    def device(self) -> torch.device:
        """Where the network's weights are."""
        return self._first_tensor().device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the network's weights."""
        return self._first_tensor().dtype

    def _first_tensor(self) -> Tensor:
        return next(itertools.chain(self.parameters(), self.buffers()))

    @property
    def fingerprint(self) -> str:
        """sha256 over config and weights, in hex: what stored tokens were made by. The device does not count."""
        return fingerprint([type(self).__name__, stated_config(self)], self.state_dict())


def stated_config(network: Any) -> dict[str, Any]:
    """The config of a diffusers model, without the notes of diffusers itself."""
    return {key: value for key, value in network.config.items() if not key.startswith("_")}


def move(tokenizers: Iterable[Any], device: torch.device) -> None:
    """Let the tokenizers that have a network run on a device; the others are quick, and would wait for the copies.

    What they are given and what they give stays on the CPU, but for pictures and sounds that they decode."""
    for tokenizer in tokenizers:
        if isinstance(tokenizer, NetworkTokenizer) and any(True for _ in tokenizer.parameters()):
            tokenizer.to(device)


def usual_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
