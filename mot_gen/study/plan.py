"""plan: what a recipe will cost, before anything runs. The model is built on the meta device, so 7B fits a laptop.

Memory and communication are those of one process of so many, by the arithmetic of docs/scaling.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from mot_gen.flops import by_module, count_parameters, learned_parameters
from mot_gen.model import MultimodalModel
from mot_gen.recipes.recipe import Recipe
from mot_gen.recipes.sections import Training
from mot_gen.sequence import PackedBatch
from mot_gen.study.memory import training_memory
from mot_gen.study.workload import Workload, training_flops
from mot_gen.training.build import outline_model
from mot_gen.training.world import accumulation, check_size


def plan(recipe: Recipe, processes: int = 1, machine: int = 8, vocabulary: int | None = None) -> dict:
    """Parameters (active, total), tokens and FLOPs of a step and of the run, and for one of `processes`, of which
    `machine` share a machine, the bytes of memory and those it sends in a step.

    The texts are read, since tokens and fill depend on them; the model's weights are never allocated. vocabulary: of
    text, where it is to be another than the tokenizer's, which may have been made from less data than will be there.
    """
    return PlanInputs.of(recipe, vocabulary).facts(processes, machine)


@dataclass(frozen=True)
class PlanInputs:
    """What a plan is made from: the model on the meta device, some batches of the recipe's data, and the bytes of
    tokenised media that are kept."""

    training: Training
    model: MultimodalModel
    batches: list[PackedBatch]
    samples: int
    cached: int

    @classmethod
    def of(cls, recipe: Recipe, vocabulary: int | None = None) -> PlanInputs:
        workload = Workload.of(recipe)
        tokenizers: Mapping[str, Any] = workload.tokenizers
        if vocabulary:
            text = next(iter(tokenizers))
            sized = replace(tokenizers[text].modality, vocab_size=vocabulary)
            tokenizers = {**tokenizers, text: SimpleNamespace(modality=sized)}
        model = outline_model(recipe, tokenizers)
        return cls(recipe.training, model, workload.batches, workload.samples, workload.cached)

    def facts(self, processes: int = 1, machine: int = 8) -> dict:
        """What `plan` returns."""
        training, batches = self.training, self.batches
        check_size(training, processes, machine)
        a_step = processes * accumulation(training, processes)
        flops = a_step * training_flops(self.model, batches)
        fill = sum(batch.fill for batch in batches) / len(batches)
        tokens = round(training.rows * training.row_length * a_step * fill)
        parameters = count_parameters(self.model)
        forward, slots = by_module(self.model, batches[0]), batches[0].ids.numel()
        mesh = Mesh.of(training, processes, machine)
        memory = _state_bytes(self.model, training, mesh) | _working_bytes(self.model, training, mesh, batches)
        peak = {}
        if processes == 1:
            peak = {"peak_bytes": training_memory(self.model, batches, training), "cached_bytes": self.cached}
        return {
            "active_parameters": parameters.active,
            "total_parameters": parameters.total,
            "learned_parameters": learned_parameters(self.model),
            "samples": self.samples,
            "tokens_a_step": tokens,
            "row_fill": fill,
            "flops_a_step": flops,
            "steps": training.steps,
            "tokens": tokens * training.steps,
            "flops": flops * training.steps,
            "flops_a_token_forward": {name: count // slots for name, count in forward.items()},
            "flops_a_token_backward": {name: 2 * count // slots for name, count in forward.items()},
            "parallel": mesh.kind,
            "processes": processes,
            **memory,
            "memory_bytes": sum(memory.values()),
            **peak,
            **_traffic(self.model, training, mesh, a_step // processes),
        }


@dataclass(frozen=True)
class Mesh:
    """How processes share a model: `replicas` groups, each of `shards` processes with a share of the weights each."""

    kind: str
    replicas: int
    shards: int

    @classmethod
    def of(cls, training: Training, processes: int, machine: int) -> Mesh:
        """What `training.parallel` says of so many processes; auto is taken for fsdp."""
        if processes == 1:
            return cls("plain", 1, 1)
        if training.parallel == "ddp":
            return cls("ddp", processes, 1)
        if training.parallel == "hsdp":
            group = training.shard or min(machine, processes)
            return cls("hsdp", processes // group, group)
        return cls("fsdp", 1, processes)


def _count(parameters) -> int:
    return sum(p.numel() for p in parameters)


def _blocks(model: MultimodalModel) -> tuple[int, int]:
    """Parameters of all blocks, and of the largest."""
    each = [_count(block.parameters()) for block in model.backbone.blocks]
    return sum(each), max(each)


def _compute_bytes(training: Training) -> int:
    return 2 if training.precision == "bf16" else 4


def _state_bytes(model: MultimodalModel, training: Training, mesh: Mesh) -> dict[str, int]:
    """What a process keeps between steps, all in fp32, of its share."""
    weights = -(-4 * _count(model.parameters()) // mesh.shards)
    learned = -(-4 * learned_parameters(model) // mesh.shards)
    kept = {"weight_bytes": weights, "gradient_bytes": learned, "moment_bytes": 2 * learned}
    if training.ema:
        kept["average_bytes"] = learned
    return kept


def _working_bytes(
    model: MultimodalModel, training: Training, mesh: Mesh, batches: list[PackedBatch]
) -> dict[str, int]:
    """What a step needs besides: gathered weights, what the backward pass keeps of the backbone, and logits."""
    each, tokens = _compute_bytes(training), training.rows * training.row_length
    blocks, largest = _blocks(model)
    outside = _count(model.parameters()) - blocks
    layers = len(model.backbone.blocks)
    kept = max(model.backbone.activations(batch.layout) for batch in batches) * each // tokens
    if training.gradient_checkpointing:  # the fp32 input of every block, and one block recomputed
        kept = layers * model.backbone.dim * 4 + kept // layers
    gathered = 0
    if mesh.shards > 1:
        # Two blocks gathered, one in use and one ahead; one block's gradients before they are shared out, as computed
        # and in fp32; what is outside of blocks stays gathered in fp32, with its gradients.
        gathered = largest * (2 * each + each + 4) + outside * 8
    targets = sum(len(batch.target_ids) for batch in batches) // len(batches)
    return {
        "gathered_bytes": gathered,
        "activation_bytes": tokens * kept,
        # As computed and in fp32, each with its gradient.
        "logit_bytes": targets * model.vocabulary.size * 2 * (each + 4),
    }


def _traffic(model: MultimodalModel, training: Training, mesh: Mesh, batches: int) -> dict[str, int]:
    """Bytes that a process sends in a step of so many batches, by ring algorithms: within its group of shards, where
    blocks are gathered twice a batch and all gradients reduced once, and between replicas."""
    blocks, _ = _blocks(model)
    total = _count(model.parameters())
    others = (mesh.shards - 1) / mesh.shards
    gathers = 2 * blocks * _compute_bytes(training) + 4 * (total - blocks)
    between = 2 * 4 * total / mesh.shards * (mesh.replicas - 1) / mesh.replicas
    return {
        "sent_among_shards_bytes": round(batches * others * (gathers + 4 * total)),
        "sent_among_replicas_bytes": round(between),
    }
