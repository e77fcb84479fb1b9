"""One model over one sequence: embed -> backbone -> heads. MultimodalModel, Output; also MultimodalConfig.

Discrete tokens enter through one embedding of the joint vocabulary and leave through one head over it, or both through
token layers of their modality. Every continuous modality enters and leaves through its own patch layers. The model
saves and loads as a diffusers `ModelMixin`: `config.json` beside safetensors.

Shapes: B rows, S slots, D width, V joint vocabulary, M slots that predict, N tokens of a continuous modality.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from mot_gen import backbone as backbones
from mot_gen import checkpoints
from mot_gen import objectives as objective_kinds
from mot_gen.backbone.modality_layers import patch_layers as patches
from mot_gen.backbone.modality_layers.scale_inputs import build_scale_inputs
from mot_gen.backbone.modality_layers.token_layers import apart_from_others, build_token_layers
from mot_gen.backbone.outline import outlining
from mot_gen.backbone.storage.half_storage import Projection, store_in_half
from mot_gen.checkpoints.dtypes import check_dtype
from mot_gen.checkpoints.folders import ANSWERS, permission
from mot_gen.checkpoints.model_folder import check_model_folder
from mot_gen.errors import InputError, nearest, require
from mot_gen.files.hub import folder_or_name
from mot_gen.files.manifest import refuse_pickle
from mot_gen.learning.corruption import Corruption
from mot_gen.learning.losses import learned_losses, unreduced_losses
from mot_gen.learning.supervision import Losses, Supervision, loss_masks, supervise
from mot_gen.learning.token_losses import Head
from mot_gen.model_config import MultimodalConfig, modality_of
from mot_gen.sequence import Modality, PackedBatch, Vocabulary

HALF_OR_COMPILED = "half storage (fp16 on a CPU) does not go with compiled blocks: use only one of them"
__all__ = ["MultimodalConfig", "MultimodalModel", "Output", "outlining"]


@dataclass
class Output:
    """Predictions: logits (M, V) at the batch's target_slots; latents, modality -> (N, C), as objectives say."""

    logits: Tensor
    latents: dict[str, Tensor]


class MultimodalModel(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' two differ in config_name
    """A model of text, images and sound in one sequence.

    model = MultimodalModel.from_pretrained("openmoji")
    logits = model(batch).logits    of a PackedBatch; latents likewise, see `Output`

    Its arguments are those of `MultimodalConfig`, with modalities as dicts.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ("Block",)  # type: ignore[assignment]  # diffusers annotates its default, None
    _repeated_blocks = ("Block",)  # type: ignore[assignment]  # diffusers annotates its default, a list

    config: Any  # diffusers' FrozenDict, whose entries are attributes as well
    answers: Path | None = None  # the file of its captions by language, where it was loaded with one

    @register_to_config
    def __init__(
        self,
        modalities: list[dict],
        backbone: dict,
        objectives: dict | None = None,
        patch_layers: dict | None = None,
        context: int | None = None,
        tokenizers: dict | None = None,
        token_layers: dict | None = None,
        embedding_scale: float = 1.0,
    ):
        super().__init__()
        self.register_to_config(backbone=backbones.saved_options(backbone))
        self.modalities = [modality_of(given) for given in modalities]
        self.vocabulary = Vocabulary(self.modalities)
        self._check_names("objectives", objectives or {})
        self._check_names("patch_layers", patch_layers or {})
        self._check_names("token_layers", token_layers or {})
        self.objectives = objective_kinds.load_all(self.modalities, objectives or {})
        self.backbone = backbones.build(backbone, self.modalities)
        dim = self.backbone.dim
        # Modules are made in this order, by which parameters are listed and initial values drawn.
        self.embedding = nn.Embedding(self.vocabulary.shared, dim)
        self.embedding_scale = embedding_scale
        self.head = Projection(dim, self.vocabulary.shared)
        self.token_layers: Any = build_token_layers(dim, self.modalities, token_layers or {})
        self.patch_layers: Any = patches.build_all(dim, self.modalities, self.objectives, patch_layers or {})
        self.scale_inputs: Any = build_scale_inputs(dim, self.modalities)
        self.init_weights()

    def _check_names(self, section: str, given: Iterable[str]) -> None:
        """InputError for a section of the config that names no modality."""
        for name in given:
            if name not in self.modality_names:
                raise InputError(f"{section}: {name!r} is not a modality" + nearest(name, self.modality_names))

    def __getattr__(self, name: str):
        # ModelMixin would answer with the config's entry, a dict, where a submodule has the same name.
        return nn.Module.__getattr__(self, name)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs) -> MultimodalModel:
        """Load safetensors as diffusers does; from a model's folder, a run's or a pipeline's, or by a shipped name.

        trust_remote_code: whether `config.json` may name modules outside of this package, which are then run.
        InputError for such modules without this permission, for pickled weights (with how to convert them), and for a
        config that does not describe the weights beside it.
        """
        check_dtype(kwargs)
        given = folder_or_name(pretrained_model_name_or_path)
        place = checkpoints.component_folder(given, cls.__name__, kwargs)
        folder = Path(place) / (kwargs.get("subfolder") or "")
        refuse_pickle(folder)
        with permission(kwargs.pop("trust_remote_code", False)):
            if folder.is_dir():
                cls._check_folder(folder)
            model = super().from_pretrained(place, **{**kwargs, "use_safetensors": True})
        model.answers = answers_in(folder)
        return model

    @classmethod
    def _check_folder(cls, folder: Path) -> None:
        """InputError unless the folder's config describes the weights beside it; takes no memory for them."""

        def outline(options: dict[str, Any]) -> nn.Module:
            with outlining():
                return cls(**options)

        check_model_folder(folder, outline)

    def compile_repeated_blocks(self, *args, **kwargs) -> None:
        """Compile as diffusers does, with `torch.compile`'s arguments: one program for all blocks, made at first need.

        Training runs it, and so do those passes of generation that repeat: decoding steps, and the evaluations of an
        open span of one tower. While generating, prompts (whose lengths differ), experts and Mamba's states stay
        eager. InputError where the model is in half storage."""
        require(self.head.halves is None, HALF_OR_COMPILED)
        super().compile_repeated_blocks(*args, **kwargs)
        self.backbone.compiled = True

    def enable_half_storage(self) -> None:
        """For generation on a CPU: the backbone's projections and the head read fp16 copies of their matrices, and
        multiply in fp32 (`backbone.storage.half_storage`). Towers of different widths stay as they are.

        The weights themselves are kept beside the copies, to be saved or moved. Training, casts, moves and loading a
        state end half storage. InputError where the model is not in fp32 on a CPU, where PyTorch has no FBGEMM for it,
        or where the blocks are compiled."""
        require(not getattr(self.backbone, "compiled", False), HALF_OR_COMPILED)
        store_in_half(self)

    @property
    def modality_names(self) -> list[str]:
        return [m.name for m in self.modalities]

    @cached_property
    def modality(self) -> dict[str, Modality]:
        """Name -> modality."""
        return {m.name: m for m in self.modalities}

    @cached_property
    def index_of(self) -> dict[str, int]:
        """Modality name -> its number in layouts."""
        return {name: i for i, name in enumerate(self.modality_names)}

    @torch.no_grad()
    def init_weights(self):
        """Every initial value outside the backbone, which sets its own:

        embedding               normal, std 1
        head                    normal, std 1 / sqrt(D)
        scale_inputs            normal, std 1, as the embedding that they are added to
        token_layers            normal, std 1 / sqrt(fan in), bias 0
        patch_layers            see `patch_layers.init_weights`

        Parameters on the meta device are passed over: that is how a large model is given its values one by one.
        """
        if all(parameter.is_meta for parameter in self.parameters()):
            return  # also what changes nothing there costs: torch would load its compiler for it
        self.embedding.weight.normal_()
        self.head.weight.normal_(std=1 / math.sqrt(self.backbone.dim))
        for inputs in self.scale_inputs.values():
            inputs.places.weight.normal_()
        for layers in self.token_layers.values():
            layers.init_weights()
        for layers in self.patch_layers.values():
            patches.init_weights(layers)

    def embed_ids(self, ids: Tensor) -> Tensor:
        """Joint ids, any shape -> (..., D)."""
        if not self.token_layers and self.embedding_scale == 1:
            return self.embedding(ids)
        x = self.embedding(ids.clamp_max(self.vocabulary.shared - 1)) * self.embedding_scale
        for name, layers in self.token_layers.items():
            first, end = self.vocabulary.range(name)
            own = (ids >= first) & (ids < end)
            x = x.index_put((own,), layers.embed(ids[own] - first).to(x.dtype))
        return x

    def logits(self, hidden: Tensor, only: str | None = None) -> Tensor:
        """(..., D) -> (..., V), logits of all joint ids; modalities apart have heads of their own. only: the name of
        one apart; the logits of all other ids are then 0 and cost nothing."""
        if not self.token_layers:
            return self.head(hidden)
        if only is None:
            return torch.cat([self.head(hidden), *(own.logits(hidden) for own in self.token_layers.values())], -1)
        first, end = self.vocabulary.range(only)
        own = self.token_layers[only].logits(hidden)
        return nn.functional.pad(own, (first, self.vocabulary.size - end))

    def embed(self, batch: PackedBatch) -> tuple[Tensor, dict]:
        """The batch's inputs, continuous ones corrupted already -> (B, S, D), and what each patch layer remembers."""
        x = self.embed_ids(batch.ids)
        for name, inputs in self.scale_inputs.items():
            x = inputs.within(x, batch.layout.modality == self.index_of[name], batch.by_scales)
        shape, memory = x.shape, {}
        x = x.flatten(0, 1)
        for name, layers in self.patch_layers.items():
            latents = batch.latents[name]
            tokens, memory[name] = layers.encode(latents)
            x = x.index_copy(0, latents.slots, tokens.to(x.dtype))
            if self.modality[name].timed:  # its begin token says the span's time
                x = x.index_copy(0, latents.first_slots() - 1, layers.time_tokens(latents).to(x.dtype))
        return x.view(shape), memory

    @overload
    def forward(self, batch: PackedBatch) -> Output: ...

    @overload
    def forward(
        self, batch: PackedBatch, supervision: Supervision, factors: Mapping[str, float] | None = None
    ) -> Losses: ...

    def forward(
        self,
        batch: PackedBatch,
        supervision: Supervision | None = None,
        factors: Mapping[str, float] | None = None,
    ) -> Output | Losses:
        """Predictions for a batch from `corrupt`; InputError for one that has no times.

        supervision: from `supervise`; then the losses are returned, in less memory than all predictions take. factors:
        modality -> what its sum of losses is multiplied by in `Losses.total`; by default, 1 over how many count.
        """
        made = "mot_gen.pack makes one of samples, and model.corrupt returns it beside targets"
        found = type(batch).__name__
        require(isinstance(batch, PackedBatch), f"the model reads a PackedBatch, not {found}; {made}")
        x, memory = self.embed(batch)
        hidden = self.backbone(x, batch.layout).flatten(0, 1)
        latents = {}
        for name, layers in self.patch_layers.items():
            if not self.modality[name].input_only:
                own = batch.latents[name]
                latents[name] = layers.decode(hidden.index_select(0, own.slots), own, memory[name])
        if supervision is None:
            apart = [self.vocabulary.range(name) for name in self.token_layers]
            logits = apart_from_others(self.logits(hidden[batch.target_slots]), batch.target_ids, apart)
            return Output(logits, latents)
        return learned_losses(self, batch, hidden, latents, supervision, factors)

    def head_of(self, name: str) -> Head:
        """The head of a discrete modality: over the ids that all share, or over its own where it is apart."""
        if name not in self.token_layers:
            return Head(self.head, list(self.head.parameters()), self.vocabulary.shared)
        layers = self.token_layers[name]
        first, end = self.vocabulary.range(name)
        return Head(layers.logits, list(layers.parameters()), end - first, first)

    def corrupt(
        self, batch: PackedBatch, generator: torch.Generator | None = None, tokens: bool = False
    ) -> tuple[PackedBatch, dict[str, Tensor]]:
        """Let each continuous modality's objective draw times and noise: the corrupted batch, and targets (N, C).

        tokens: whether to do what only training needs, too. Discrete modalities then replace some of the tokens that
        are read, and objectives that are given the sampler's step choose spans that learn one; their targets are made
        in `mot_gen.training.self_teaching`.
        """
        return Corruption(self.modalities, self.vocabulary, self.objectives).corrupt(batch, generator, tokens)

    def supervise(self, batch: PackedBatch, targets: Mapping[str, Tensor]) -> Supervision:
        """What `forward` computes losses from. targets: of continuous modalities, as `corrupt` returned them."""
        return supervise(self.modalities, batch, targets, self.loss_masks(batch))

    def loss_masks(self, batch: PackedBatch) -> dict[str, Tensor]:
        """Per modality a mask in {0., 1.} over what `losses` returns: (M,) for discrete ones, (N,) for continuous.

        Special tokens count as text. A continuous span at time 0 has nothing to denoise and does not count.
        """
        return loss_masks(self.modalities, self.vocabulary, batch)

    def losses(self, batch: PackedBatch, output: Output, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """Per modality the unreduced losses, before `loss_masks`: (M,) for discrete ones, (N,) for continuous."""
        return unreduced_losses(self, batch, output.logits, output.latents, targets)


def answers_in(folder: Path) -> Path | None:
    """The file of captions by language in a model's folder (`pipelines/captions/languages.py`), where there is one."""
    path = folder / ANSWERS
    return path if path.is_file() else None
