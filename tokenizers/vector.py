"""VectorTokenizer: plain numbers as continuous tokens, such as actions, poses and time series."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from diffusers import ModelMixin  # noqa: F401  a pipeline looks for it here
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from mot_gen.errors import InputError
from mot_gen.sequence import Modality, Span
from mot_gen.tokenizers.pretrained import NetworkTokenizer


class VectorTokenizer(NetworkTokenizer):
    """(n, d) numbers <-> n tokens of d channels, each standardised: (x - mean) / deviation.

    width: d.
    length: n, where every span has as many; it is also how many are generated. None: any.
    causal: whether a token sees only those before it in its span, and not all of them.
    mean, deviation: d each; 0 and 1 until `measure` has set them.
    """

    discrete = False  # its tokens are numbers

    @register_to_config
    def __init__(
        self,
        width: int,
        length: int | None = None,
        causal: bool = False,
        mean: Sequence[float] | None = None,
        deviation: Sequence[float] | None = None,
        name: str = "vector",
    ):
        super().__init__()
        _check_count("width", width)
        if length is not None:
            _check_count("length", length)
        mean = mean or [0.0] * width
        deviation = deviation or [1.0] * width
        if not len(mean) == len(deviation) == width:
            raise InputError(f"mean and deviation need {width} numbers each, got {len(mean)} and {len(deviation)}")
        if min(deviation) <= 0:
            raise InputError(f"deviation must be positive, got {min(deviation)}")
        self.register_buffer("unit", torch.ones(()))  # diffusers cannot reload a model without any tensor
        self.register_to_config(mean=list(mean), deviation=list(deviation))

    @property
    def modality(self) -> Modality:
        """What its spans are: continuous tokens of `width` channels, learned by a flow."""
        config = self.config
        return Modality(config.name, None, config.width, bidirectional=not config.causal, objective="flow")

    @property
    def grid(self) -> tuple[int, int] | None:
        """(1, length), None where spans differ in length."""
        return None if self.config.length is None else (1, self.config.length)

    def encode(self, raw: Any) -> Span:
        """(n, d) numbers, as a tensor, an array or lists, to a span, on the CPU; InputError for others."""
        values = self._checked(raw)
        mean, deviation = self._moments(values.device)
        return Span(self.config.name, (values - mean) / deviation)

    def encode_batch(self, raws: Sequence) -> list[Span]:
        """Many series of numbers, one by one."""
        return [self.encode(raw) for raw in raws]

    def decode(self, span: Span) -> Tensor:
        """A span to (n, d) numbers; InputError for one that is not of this tokenizer."""
        values = span.values.to(self.device, torch.float32)
        if not self._are_rows(values):
            shape = tuple(values.shape)
            raise InputError(f"{self.config.name} span of shape {shape}; expected {self.config.width} channels a token")
        mean, deviation = self._moments(values.device)
        return values * deviation + mean

    def decode_batch(self, spans: Sequence[Span]) -> list[Tensor]:
        """Many spans, one by one."""
        return [self.decode(span) for span in spans]

    def measure(self, raws: Iterable[Any]) -> VectorTokenizer:
        """Set mean and deviation to those of these numbers, each channel for itself. InputError where one channel does
        not vary."""
        numbers = torch.cat([self._checked(raw) for raw in raws]).double()
        deviation = numbers.std(0, unbiased=False)
        if not (deviation > 0).all():
            still = int((deviation == 0).nonzero()[0])
            raise InputError(f"{self.config.name}: number {still} is the same in all samples; leave it out")
        self.register_to_config(mean=numbers.mean(0).tolist(), deviation=deviation.tolist())
        return self

    def _are_rows(self, values: Tensor) -> bool:
        """Whether these are rows of as many numbers as a token has."""
        return values.dim() == 2 and values.shape[1] == self.config.width

    def _moments(self, device: torch.device) -> Tensor:
        return torch.tensor([self.config.mean, self.config.deviation], device=device)

    def _checked(self, raw: Any) -> Tensor:
        config = self.config
        try:
            values = torch.as_tensor(raw, dtype=torch.float32, device="cpu")
        except (TypeError, ValueError, RuntimeError):
            raise InputError(f"{config.name}: needs rows of {config.width} numbers, got {raw!r:.60}") from None
        if not self._are_rows(values) or not len(values):
            raise InputError(f"{config.name}: needs rows of {config.width} numbers, got shape {tuple(values.shape)}")
        if config.length is not None and len(values) != config.length:
            raise InputError(f"{config.name}: needs {config.length} rows of numbers, got {len(values)}")
        if not torch.isfinite(values).all():
            raise InputError(f"{config.name}: holds NaN or infinity")
        return values


def _check_count(field: str, value: object) -> None:
    """InputError unless a value is a whole number of at least 1."""
    if not isinstance(value, int) or value < 1:
        raise InputError(f"{field} must be a whole number of at least 1, got {value!r}")
