"""What a run is watched by: Meter (throughput, MFU, waiting for data, memory, losses by source), measured_peak."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mot_gen.learning.supervision import Supervision
from mot_gen.sequence import PackedBatch
from mot_gen.training.world import World


class Meter:
    """Sums over the steps since the last reading. names: modalities. sources: where samples come from.

    `read` answers for all processes: tokens_per_second; mfu, the share of peak FLOPs that the model's own (recomputed
    ones not counted) reach; data_wait, the share of the steps' time in which a process waited for its batch;
    memory_bytes, the most that any process held, of its GPU's memory where it has one; and, where there are several
    sources, losses by source and modality.
    """

    def __init__(self, world: World, names: Sequence[str], sources: Sequence[str], peak: float, dtype: torch.dtype):
        """peak: FLOPs a second of one process's device in `dtype`, 0 to measure it at the first reading."""
        self.world, self.names, self.sources = world, names, sources
        self._peak, self._dtype = peak, dtype
        self._reset()

    def _reset(self) -> None:
        self._seconds = self._waited = self._tokens = self._flops = 0.0
        # (kind, modality, source), kind 0 the sums of losses and 1 their counts.
        self._by_source = torch.zeros(
            2, len(self.names), len(self.sources), dtype=torch.float64, device=self.world.device
        )

    def waited(self, seconds: float) -> None:
        """Count seconds of waiting for a batch."""
        self._waited += seconds

    def stepped(self, seconds: float, tokens: float, flops: float) -> None:
        """A step took so long; tokens and FLOPs are those of all processes."""
        self._seconds += seconds
        self._tokens += tokens
        self._flops += flops

    def lost(
        self, batch: PackedBatch, source: Tensor, supervision: Supervision, by_token: Mapping[str, Tensor]
    ) -> None:
        """by_token: losses of a batch's tokens, as in `Losses`. source: (B, documents) that of each row's documents."""
        if len(self.sources) < 2:
            return
        source = source.gather(1, batch.layout.document.clamp_min(0)).flatten()
        for number, name in enumerate(self.names):
            if name not in by_token:  # what is only read
                continue
            losses, counted = by_token[name], torch.ones_like(by_token[name])
            if name in supervision.latents:
                slots, counted = batch.latents[name].slots, supervision.latents[name].counted
            else:
                slots = supervision.tokens[name].slots
            both = torch.stack([losses, counted]).double()
            sums = both.new_zeros(2, len(self.sources)).index_add_(1, source[slots], both)
            self._by_source[:, number] += sums

    def read(self) -> dict:
        """The figures since the last reading, for a line of metrics.jsonl; every process must ask."""
        world = self.world
        if not self._peak:
            self._peak = measured_peak(world.device, self._dtype)
        peak, waited, *by_source = world.sum([self._peak, self._waited, *self._by_source.flatten().tolist()])
        (memory,) = world.max([_memory(world.device)])
        seconds = max(self._seconds, 1e-9)
        line: dict[str, Any] = {
            "tokens_per_second": self._tokens / seconds,
            "mfu": self._flops / seconds / peak,
            "data_wait": waited / world.size / seconds,
            "memory_bytes": int(memory),
        }
        sums, counts = torch.tensor(by_source).view(self._by_source.shape)
        if len(self.sources) > 1:
            line["losses_by_source"] = {}
            for number, source in enumerate(self.sources):
                line["losses_by_source"][source] = self._means(sums[:, number], counts[:, number])
        self._reset()
        return line

    def _means(self, sums: Tensor, counts: Tensor) -> dict[str, float]:
        """Modality -> sum over count, of those that have any. sums, counts: (modalities,)."""
        means = {}
        for name, total, count in zip(self.names, sums, counts):
            if count:
                means[name] = (total / count).item()
        return means


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs a second of a large matrix product on a device, the best of four."""
    size = 8192 if device.type == "cuda" else 1024
    factor = torch.rand(size, size, generator=torch.Generator(device), device=device).to(dtype)
    best = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        (factor @ factor)[0, 0].item()  # asked for, so that a GPU has finished
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best
