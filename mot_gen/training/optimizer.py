"""AdamW or Muon over towers and shards: Optimizer (clipping, steps, skipped steps) and its Pieces.

An optimizer is given *pieces*: a parameter's share on this process, or, since untied parameters are stacked tower by
tower, the slices of it that Muon orthogonalises or that towers with another learning rate own. What is not given does
not move by one bit: neither step nor weight decay touches it. Norms and decisions are those of the whole gradient, the
same on every process.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mot_gen.errors import Diverged, InputError, require
from mot_gen.model import MultimodalModel
from mot_gen.recipes.sections import Backbone, Training
from mot_gen.tokenizers.muon import muon
from mot_gen.training.learning_rate import learning_rate
from mot_gen.training.parallel import first_index, local
from mot_gen.training.parameter_groups import ParameterGroup, decays, is_stack_of_matrices, rate_factors

MAX_SKIPPED = 20  # steps in a row that were not used, at which a run ends
NOTHING = "backbone.frozen, training.learns, training.frozen_layers: nothing would be learned; leave something to learn"
SETTLED = 50  # used steps after which the mean gradient norm is worth a comparison


@dataclass
class Piece:
    """What an optimizer is given of a parameter: all of this process's share, or its slice at `place`."""

    name: str
    parameter: nn.Parameter
    place: int | None
    value: Tensor

    def of(self, like: Tensor) -> Tensor:
        """The piece of a tensor that belongs to this value: of the parameter's gradient, or of a moment."""
        share = local(like)
        return share if self.place is None else share[self.place]


class Optimizer:
    """One step over a model: clip, set the rate, step. A step whose gradient is not finite, or is out of all
    proportion (`training.spike`), is skipped; too many in a row are an error.

    `training.optimizer` is `adamw`, or `muon`: then the backbone's matrices, each tower's its own, step along the
    orthogonal matrix nearest to their averaged gradient (Jordan et al., 2024), scaled to the root mean square of an
    AdamW step (Liu et al., 2025, arXiv 2502.16982), so that one rate and one decay serve both; all else is AdamW's.

    moments: the two, like the parameter that they belong to, by its name (Muon uses the first). state: (3,) on the
    device, so that no step waits for it: how many steps were used, how many of late were not, and the mean gradient
    norm of late.
    """

    def __init__(self, model: MultimodalModel, training: Training, backbone: Backbone):
        self.training = training
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        require(self.parameters, NOTHING)
        self.state = torch.zeros(3, dtype=torch.float64, device=local(self.parameters[0]).device)
        self.pieces: list[Piece] = []
        self.moments: dict[str, tuple[Tensor, Tensor]] = {}
        by_muon = training.optimizer == "muon"
        self._shards = self._shard_group()
        if by_muon and self._shards is not None:
            raise InputError(
                "training.optimizer=muon: it steps whole matrices, and a sharded model has none; say "
                "training.parallel=ddp or training.optimizer=adamw"
            )
        groups = self._groups(model, backbone, by_muon)
        require(groups, NOTHING)
        self.optimizers = []
        for matrices in (False, True):
            own = {group: values for group, values in groups.items() if group.matrices is matrices}
            if own:
                self.optimizers.append(_torch_optimizer(matrices, training, own))
        self._link_moments()

    def _shard_group(self) -> dist.ProcessGroup | None:
        """The processes that share the parameters out; None where each has them whole."""
        for parameter in self.parameters:
            if isinstance(parameter, DTensor):
                return parameter.device_mesh.get_group("shard")
        return None

    def _groups(self, model: MultimodalModel, backbone: Backbone, by_muon: bool) -> dict[ParameterGroup, list[Tensor]]:
        """The values of all pieces that learn, by what they have in common."""
        groups: dict[ParameterGroup, list[Tensor]] = {}
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            decay = self.training.weight_decay if decays(name, parameter) else 0.0
            matrices = by_muon and is_stack_of_matrices(name, parameter)
            for place, factors in rate_factors(name, model, backbone, self.training.phases):
                if not any(factors):
                    continue
                group = groups.setdefault(ParameterGroup(matrices, decay, factors), [])
                # Muon steps one matrix at a time, so a stack of them is taken apart.
                places = range(len(parameter)) if matrices and place is None else [place]
                for each in places:
                    group.extend(self._pieces(name, parameter, each))
        return groups

    def _pieces(self, name: str, parameter: nn.Parameter, place: int | None) -> Iterator[Tensor]:
        """The value of a new piece, where this process has a share of it; its moments in any case."""
        if name not in self.moments:
            self.moments[name] = torch.zeros_like(parameter.data), torch.zeros_like(parameter.data)
        share = local(parameter.data)
        if not share.numel():
            return
        value = share
        if place is not None:
            place -= first_index(parameter.data)
            if not 0 <= place < len(share):
                return
            value = share[place]
        value.requires_grad_()
        self.pieces.append(Piece(name, parameter, place, value))
        yield value

    def _link_moments(self) -> None:
        """The optimizers' state is pieces of `moments`, which are sharded and saved as the parameters are."""
        of_value = {piece.value: piece for piece in self.pieces}
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                for value in group["params"]:
                    optimizer.state[value] = self._state_of(of_value[value], _is_muon(optimizer))

    def _state_of(self, piece: Piece, by_muon: bool) -> dict[str, Tensor]:
        """What PyTorch's optimizer keeps of a piece."""
        first, second = self.moments[piece.name]
        if by_muon:
            return {"momentum_buffer": piece.of(first)}
        updates = torch.full((), float(self.updates), device=piece.value.device)
        return {"step": updates, "exp_avg": piece.of(first), "exp_avg_sq": piece.of(second)}

    @property
    def updates(self) -> int:
        """How many steps were used; asking waits for the device."""
        return int(self.state[0])

    @property
    def skipped(self) -> int:
        """How many steps in a row, up to the last, were not used; asking waits for the device."""
        return int(self.state[1])

    def step(self, step: int) -> tuple[float, Tensor]:
        """Use the gradients, and clear them. Returns the learning rate and the gradient norm () before clipping."""
        for piece in self.pieces:
            piece.value.grad = piece.of(cast("Tensor", piece.parameter.grad))
        gradients = [cast("Tensor", piece.value.grad) for piece in self.pieces]
        norm, rate = self._norm(gradients), learning_rate(step, self.training)
        usable = self._usable(norm)
        if not self._decides_on_host:
            self._use(gradients, norm, step, unless=~usable)
        elif usable:
            self._use(gradients, norm, step)
        self._count(norm.double(), usable)
        for parameter in self.parameters:
            parameter.grad = None
        return rate, norm

    @property
    def _decides_on_host(self) -> bool:
        """Whether the host asks if a step is used. On a GPU it would wait for the answer."""
        return self.state.device.type == "cpu"

    def _use(self, gradients: list[Tensor], norm: Tensor, step: int, unless: Tensor | None = None) -> None:
        """Clip and step. unless: () bool on the device, whether to leave everything as it is after all.

        At a rate of zero a value neither moves nor decays.
        """
        rate = learning_rate(step, self.training)
        phase = sum(step >= phase.until for phase in self.training.phases)
        if self.training.clip:
            torch._foreach_mul_(gradients, (self.training.clip / (norm + 1e-6)).clamp(max=1.0))
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["factors"][phase]
            if unless is None:
                optimizer.step()
            elif _is_muon(optimizer):
                _step_unless(optimizer, unless)
            else:  # PyTorch's AdamW asks on the device, as torch.amp.GradScaler lets it
                optimizer.found_inf = unless.float()  # type: ignore[attr-defined]
                optimizer.step()

    def _norm(self, gradients: list[Tensor]) -> Tensor:
        """The norm of what is learned, over all shards; a number that is none spreads to every process."""
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        if self._shards is None:
            return norm
        square = norm.square()
        dist.all_reduce(square, group=self._shards)
        return square.sqrt()

    def _usable(self, norm: Tensor) -> Tensor:
        """() bool: whether a gradient of this norm may be used."""
        usable = norm.isfinite()
        if not self.training.spike:
            return usable
        updates, _, usual = self.state.unbind()
        return usable & ((updates < SETTLED) | (norm <= self.training.spike * usual))

    def _count(self, norm: Tensor, usable: Tensor) -> None:
        """Note whether the step was used."""
        updates, skipped, usual = self.state.unbind()
        updates = updates + usable
        usual = torch.where(usable, usual + (norm - usual) / updates.clamp(1, SETTLED), usual)
        self.state = torch.stack([updates, (skipped + 1) * ~usable, usual])

    def refuse_many_skipped(self, step: int, norm: float, skipped: float) -> None:
        """Diverged where too many steps in a row were not used. step: how many were made. norm: the last gradient's."""
        if skipped >= MAX_SKIPPED:
            what = f"out of proportion ({norm:.3g})" if math.isfinite(norm) else "not finite"
            raise Diverged(f"step {step}: the gradient was {what} in {int(skipped)} steps in a row")

    def tensors(self) -> dict[str, Tensor]:
        """The moments by name, to be saved, and to be written into before `load_state_dict`."""
        found = {}
        for name, (first, second) in self.moments.items():
            found[f"exp_avg.{name}"] = first
            found[f"exp_avg_sq.{name}"] = second
        return found

    def state_dict(self) -> dict:
        """JSON-able: all that is no tensor."""
        updates, skipped, usual_norm = self.state.tolist()
        return {"updates": int(updates), "skipped": int(skipped), "usual_norm": usual_norm}

    def load_state_dict(self, state: dict) -> None:
        """Take what `state_dict` gave; the moments have been written into before."""
        values = [float(state[name]) for name in ("updates", "skipped", "usual_norm")]
        self.state = torch.tensor(values, dtype=torch.float64).to(self.state.device)
        self._link_moments()


def _torch_optimizer(
    matrices: bool, training: Training, groups: dict[ParameterGroup, list[Tensor]]
) -> torch.optim.Optimizer:
    """PyTorch's Muon or AdamW over groups of values."""
    listed = []
    for group, values in groups.items():
        listed.append({"params": values, "weight_decay": group.decay, "factors": group.factors})
    if matrices:
        return muon(listed, training.lr, training.betas[1])
    return torch.optim.AdamW(listed, training.lr, training.betas, training.eps, fused=True)


def _is_muon(optimizer: torch.optim.Optimizer) -> bool:
    return isinstance(optimizer, torch.optim.Muon)


@torch.no_grad()
def _step_unless(optimizer: torch.optim.Optimizer, unless: Tensor) -> None:
    """A step of PyTorch's Muon, after which everything is as it was where `unless`, () bool on the device, says so."""
    changed = []
    for group in optimizer.param_groups:
        for value in group["params"]:
            changed += [value, optimizer.state[value]["momentum_buffer"]]
    before = [tensor.clone() for tensor in changed]
    optimizer.step()
    for tensor, old in zip(changed, before):
        tensor.copy_(torch.where(unless, old, tensor))
