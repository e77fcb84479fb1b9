"""Tables of names, read both ways: Entry and layer_entries, and the steps between a published tensor and ours;
values, restore_tensors.

An entry says that one published tensor is one region of one of our parameters, after steps that can be undone. Read
forwards a table converts a published model; read backwards it gives the published tensors again, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mot_gen.backbone.outline import initial_value
from mot_gen.errors import InputError
from mot_gen.files.tensors import Spec

Place = tuple[int | slice, ...]
COUNTS = "num_batches_tracked"  # of a batch norm; all else in a model is a fraction


class Reader(Protocol):
    """Where published tensors are read: `files.tensors.Shards`, or `InMemory`."""

    specs: dict[str, Spec]

    def get(self, name: str) -> Tensor: ...


class InMemory:
    """A state dict as a `Reader`."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        self._tensors = tensors
        self.specs = {name: Spec(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}

    def get(self, name: str) -> Tensor:
        return self._tensors[name]


# ---------------------------------------------------------------- steps


@dataclass(frozen=True)
class Rows:
    """Rows in another order: ours[i] = theirs[order[i]]."""

    order: tuple[int, ...]

    def forward(self, x: Tensor) -> Tensor:
        return x[torch.tensor(self.order)]

    def backward(self, x: Tensor) -> Tensor:
        """Theirs again, of ours."""
        return x[torch.tensor(self.order).argsort()]


@dataclass(frozen=True)
class Permuted:
    """Theirs in one shape, with its dimensions in another order, flattened to `ours`."""

    shape: tuple[int, ...]
    order: tuple[int, ...]
    ours: tuple[int, ...]
    theirs: tuple[int, ...]

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(self.shape).permute(self.order).reshape(self.ours)

    def backward(self, x: Tensor) -> Tensor:
        """Theirs again, of ours."""
        moved = [self.shape[dimension] for dimension in self.order]
        inverse = torch.tensor(self.order).argsort().tolist()
        return x.reshape(moved).permute(inverse).reshape(self.theirs)


@dataclass(frozen=True)
class FirstRows:
    """The first rows alone. The way back leaves the others as they are in the published model."""

    rows: int

    def forward(self, x: Tensor) -> Tensor:
        return x[: self.rows]

    def backward(self, x: Tensor) -> Tensor:
        """The rows that ours gives back."""
        return x


@dataclass(frozen=True)
class MeanOfRows:
    """So many rows, each the mean of theirs; there is no way back."""

    of: int
    rows: int

    def forward(self, x: Tensor) -> Tensor:
        return x[: self.of].mean(0).expand(self.rows, -1)


# ---------------------------------------------------------------- entries


@dataclass(frozen=True)
class Entry:
    """One published tensor, or a region of it, and a region of ours.

    ours: name of our parameter.
    theirs: the published tensor.
    how: steps from theirs to ours.
    place: the region of ours, as an index; () is all of it.
    taken: that of theirs.
    copy: it is read only, beside another entry of the same tensor, which leads back: copies of a tower, a head that is
    the embedding.
    """

    ours: str
    theirs: str
    how: Sequence[Any] = ()
    place: Place = ()
    copy: bool = False
    taken: Place = ()

    def read(self, reader: Reader) -> Tensor:
        """The published tensor, or its region, after all steps: what stands at `place` of ours."""
        tensor = _region(reader.get(self.theirs), self.taken)
        for step in self.how:
            tensor = step.forward(tensor)
        return tensor

    def back(self, ours: Tensor) -> Tensor:
        """Our parameter -> the published tensor, or the region of it that is taken."""
        tensor = _region(ours, self.place)
        for step in reversed(self.how):
            tensor = step.backward(tensor)
        return tensor


def layer_entries(names: Mapping[str, str]) -> list[Entry]:
    """names: {our layer: the published one}. The entries of their weights and biases, which stand as they are."""
    leaves = ("weight", "bias")
    return [Entry(f"{ours}.{leaf}", f"{theirs}.{leaf}") for ours, theirs in names.items() for leaf in leaves]


def check_table(table: Sequence[Entry], outline: nn.Module, theirs: Mapping[str, Spec], where: str) -> None:
    """InputError unless the table reads every published tensor once and each is of the shape that ours has.

    outline: our module, on any device. where: begins the message."""
    ours = outline.state_dict()
    for entry in table:
        if entry.theirs not in theirs:
            raise InputError(f"{where}: {entry.theirs} is missing; fetch all of its files")
        _check_entry(entry, ours[entry.ours], theirs[entry.theirs], where)
    foreign = sorted(theirs.keys() - {entry.theirs for entry in table})
    if foreign:
        raise InputError(f"{where}: holds {foreign[0]}, which this family does not have")


def _check_entry(entry: Entry, ours: Tensor, spec: Spec, where: str) -> None:
    """InputError unless a published tensor holds fractions, or counts, and has the shape that ours takes."""
    counts = entry.theirs.endswith(COUNTS)
    if not (counts or spec.dtype.is_floating_point):
        raise InputError(f"{where}: {entry.theirs} is of {spec.dtype}; quantised weights are not read")
    wanted = tuple(_region(ours.to("meta"), entry.place).shape)
    made = _shape_after(entry, spec)
    if made != wanted:
        raise InputError(f"{where}: {entry.theirs} is of shape {spec.shape}, which gives {made} in place of {wanted}")


def _shape_after(entry: Entry, spec: Spec) -> tuple[int, ...] | None:
    """The shape of a published tensor after the entry's steps; None where they do not fit it."""
    try:
        tensor = _region(_weightless(spec.shape), entry.taken)
        for step in entry.how:
            # Bytes have no mean.
            tensor = tensor[:1].expand(step.rows, -1) if isinstance(step, MeanOfRows) else step.forward(tensor)
    except (RuntimeError, IndexError):
        return None
    return tuple(tensor.shape)


# ---------------------------------------------------------------- values


def our_specs(outline: nn.Module, table: Sequence[Entry], reader: Reader) -> dict[str, Spec]:
    """What every tensor of our module will be: of its published tensors' dtype, else of the first one's."""
    dtype_of = {entry.ours: reader.specs[entry.theirs].dtype for entry in table}
    usual = next(iter(dtype_of.values()))
    return {name: Spec(dtype_of.get(name, usual), tuple(own.shape)) for name, own in outline.state_dict().items()}


def values(outline: nn.Module, table: Sequence[Entry], reader: Reader) -> Iterator[tuple[str, Tensor]]:
    """Name and value of every tensor of our module, one after the other.

    outline: the module on the meta device. What the table does not give begins at the module's own initial value."""
    entries: dict[str, list[Entry]] = {}
    for entry in table:
        entries.setdefault(entry.ours, []).append(entry)
    for name, spec in our_specs(outline, table, reader).items():
        mine = entries.get(name, [])
        tensor = torch.empty(spec.shape, dtype=spec.dtype)
        if _covered(mine, spec.shape) < tensor.numel():
            tensor.copy_(initial_value(outline, name))
        for entry in mine:
            tensor[entry.place] = entry.read(reader)
        yield name, tensor


def _covered(entries: Sequence[Entry], shape: tuple[int, ...]) -> int:
    whole = _weightless(shape)
    return sum(whole[entry.place].numel() for entry in entries)


def restore_tensors(table: Sequence[Entry], ours: Reader, like: Reader, where: str) -> Iterator[tuple[str, Tensor]]:
    """The published tensors again, with our values, in the order of `like`: (name, tensor), each of its dtype there.

    InputError where two of ours come from one tensor, and are not the same any more."""
    of: dict[str, list[Entry]] = {}
    for entry in table:
        if not entry.copy:
            of.setdefault(entry.theirs, []).append(entry)
    second = _second_readings(table, of)
    for name in like.specs:
        if name not in of:  # what a family passes over
            yield name, like.get(name)
            continue
        tensor = _put_together(of[name], ours, like)
        if name in second and not _is_still(second[name], tensor, ours):
            raise InputError(
                f"{where}: has one matrix for embedding and head, which training made two; train it frozen"
            )
        yield name, tensor.contiguous()


def _put_together(entries: Sequence[Entry], ours: Reader, like: Reader) -> Tensor:
    """A published tensor of the entries that lead back to it; what they do not give is as it was."""
    name = entries[0].theirs
    spec = like.specs[name]
    first = entries[0].back(ours.get(entries[0].ours)).to(spec.dtype)
    if len(entries) == 1 and first.shape == spec.shape:
        return first
    whole = like.get(name).clone()
    for entry in entries:
        value = entry.back(ours.get(entry.ours)).to(spec.dtype)
        region = _region(whole, entry.taken)
        region[: len(value)] = value  # of `FirstRows`, the first rows alone are ours
    return whole


def _second_readings(table: Sequence[Entry], of: Mapping[str, Sequence[Entry]]) -> dict[str, Entry]:
    """Published name -> the entry that reads it into a second parameter; the way back reads the first."""
    found = {}
    for entry in table:
        if not entry.copy or entry.ours == of[entry.theirs][0].ours:
            continue
        if not any(isinstance(step, MeanOfRows) for step in entry.how):
            found[entry.theirs] = entry
    return found


def _is_still(entry: Entry, theirs: Tensor, ours: Reader) -> bool:
    """Whether the region of a copy is what it was made as."""
    region = ours.get(entry.ours)[entry.place]
    for step in entry.how:
        theirs = step.forward(theirs)
    return torch.equal(theirs.to(region.dtype), region)


def _region(tensor: Tensor, place: Place) -> Tensor:
    """A tensor at an index; () is all of it."""
    return tensor[place] if place else tensor


def _weightless(shape: tuple[int, ...]) -> Tensor:
    """A tensor of this shape and of no memory. On the meta device, torch would load its compiler for indexing."""
    return torch.zeros((), dtype=torch.uint8).expand(shape)
