"""The most memory that training takes, before anything runs: training_memory of a step, process_memory beside it.

A step is fullest when the backward pass begins or when it ends: weights, their average and AdamW's two moments stay;
what the forward pass keeps is freed while the gradients come. On a CPU, what the libraries and the data hold comes on
top; a run's `memory_bytes` counts it too.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence

import torch

from mot_gen.flops import count_parameters, learned_parameters
from mot_gen.model import MultimodalModel
from mot_gen.recipes.sections import Training
from mot_gen.sequence import PackedBatch
from mot_gen.training.world import accumulation

# On a CPU: glibc's heap keeps holes between tensors whose sizes differ. `python -m benchmarks memory` measures it; with
# MALLOC_MMAP_THRESHOLD_=65536 in the environment it is 1, and every large tensor costs page faults.
HEAP = 1.33

# What a run imports and keeps beyond what planning does: the compiler, which torch's optimizers ask for (it is there
# already where a tokenizer is to be trained), and buffers of kernels and of checkpoints. benchmarks/memory measures it.
COMPILER, BUFFERS = 130 << 20, 60 << 20


def training_memory(model: MultimodalModel, batches: Sequence[PackedBatch], training: Training) -> int:
    """Bytes at the fullest moment of a step of one process. The model may be on the meta device."""
    total, learned = count_parameters(model).total, learned_parameters(model)
    activations = max(_activations(model, batch, training) for batch in batches) * _heap(training)
    gradients = 4 * learned
    kept = gradients if accumulation(training, 1) > 1 else 0  # gradients of the earlier batches of a step
    return _state(total, learned, training) + max(round(activations) + kept, gradients)


def process_memory(parameters: int, learned: int, training: Training) -> int:
    """Bytes that the process of a run holds beside the step: the interpreter, the libraries, the data, its tokenizers,
    and the copy of the state that a checkpoint is written from. 0 where a GPU's memory is counted. learned: how many of
    the parameters learn.

    Call it when a plan is made, since this process then holds the same libraries and data.
    """
    if not _on_cpu(training):
        return 0
    here = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    compiler = 0 if "torch._dynamo" in sys.modules else COMPILER
    return here + compiler + BUFFERS + _state(parameters, learned, training)


def _state(parameters: int, learned: int, training: Training) -> int:
    """Bytes of the weights, and of AdamW's two moments and the average, where there is one, of those that learn."""
    copies = 3 if training.ema else 2
    return 4 * (parameters + copies * learned)


def _activations(model: MultimodalModel, batch: PackedBatch, training: Training) -> int:
    """What the forward pass keeps for the backward one, gradients of one layer's, and the logits with theirs."""
    each = 2 if training.precision == "bf16" else 4  # bytes
    depth = len(model.backbone.blocks)
    kept = model.backbone.activations(batch.layout) * each
    inputs = batch.ids.numel() * model.backbone.dim
    if training.gradient_checkpointing:  # the fp32 input of every block, and one block made again with its gradients
        kept = 4 * depth * inputs + 2 * kept // depth
    else:
        kept += kept // depth
    logits = 12 * len(batch.target_ids) * model.vocabulary.size
    patches = 4 * sum(layers.activations(batch.latents[name]) for name, layers in model.patch_layers.items())
    return kept + 2 * each * inputs + logits + patches


def _heap(training: Training) -> float:
    return HEAP if _on_cpu(training) else 1.0


def _on_cpu(training: Training) -> bool:
    return training.device == "cpu" or (training.device == "auto" and not torch.cuda.is_available())
