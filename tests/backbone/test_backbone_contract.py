"""What every backbone promises (mot_gen.backbone), held for each preset and each file of the folder."""

import pytest
import torch
from tiny import MODALITIES, mixed, picture, rounded, speech, words
from tiny_backbones import STATED, build, documents_of, inputs, kinds

from mot_gen.backbone.outline import initial_value, outlining
from mot_gen.backbone.storage.half_storage import HalfStorage, has_fbgemm, store_in_half
from mot_gen.packing import document_length, pack, pack_prompts, pack_rows
from mot_gen.sequence import PADDING, Layout

CLOSE = {"atol": 1e-5, "rtol": 1e-4}
every_kind = pytest.mark.parametrize("kind", [*kinds(), *STATED])


def in_order(backbone, x, layout):
    """What a backbone makes of x without a look ahead: one that is not causal keeps its promises over a cache."""
    cache = None if backbone.causal else backbone.init_cache(*layout.shape)
    return backbone(x, layout, cache)


def tensors_of(layout):
    """Its fields by name; how many slots a modality has is left to be counted again."""
    return {name: value for name, value in vars(layout).items() if isinstance(value, torch.Tensor)}


def part_of(layout, start, end):
    return Layout(**{name: value[:, start:end] for name, value in tensors_of(layout).items()})


def repeated(layout, times):
    """The rows of a layout several times over."""
    return Layout(**{name: torch.cat([value] * times) for name, value in tensors_of(layout).items()})


def twice(layout):
    return repeated(layout, 2)


@pytest.mark.parametrize("kind", kinds())
def test_every_parameter_of_an_outline_has_an_initial_value(kind):
    holder = torch.nn.Module()
    with outlining():
        holder.backbone = build(kind, "meta")
    for name, outlined in list(holder.named_parameters()):
        value = initial_value(holder, name)  # refuses one that is not written
        assert value.shape == outlined.shape and not value.is_meta


@every_kind
@torch.no_grad()
def test_documents_never_leak(kind):
    backbone, layout = build(kind), pack_rows([mixed(3), mixed(4)[2:]], MODALITIES, 60).layout
    x, other = inputs(2, 60), inputs(2, 60, seed=1)
    before = backbone(x, layout)
    for row, document in ((0, 0), (0, 1), (0, 2), (1, 1)):
        here = torch.zeros(2, 60, dtype=torch.bool)
        here[row] = layout.document[row] == document
        after = backbone(torch.where(here[..., None], other, x), layout)
        assert not torch.allclose(after[here], before[here], atol=1e-2)
        torch.testing.assert_close(after[~here], before[~here], **CLOSE)


@every_kind
@torch.no_grad()
def test_what_is_later_never_touches_what_is_earlier(kind):
    """Nor does a later word of the same text; but each token of a picture reaches all of it. Row n has other values
    from its n-th token on, and rows are apart, as documents are."""
    backbone, layout = build(kind), documents_of(mixed(3)[2])
    length = layout.shape[1]
    x, other = inputs(1, length), inputs(1, length, seed=1)
    before = in_order(backbone, x, layout)
    changed = torch.arange(length) >= torch.arange(length)[:, None]
    after = in_order(backbone, torch.where(changed[..., None], other, x), repeated(layout, length))
    in_picture = layout.modality[0] == 1
    for first in range(1, length):
        free = ~changed[first]
        if in_picture[first] and in_picture[first - 1]:
            reached = free & in_picture
            assert ((after[first] - before[0])[reached].abs().amax(-1) > 1e-4).all()
            free = free & ~in_picture
        torch.testing.assert_close(after[first, free], before[0, free], **CLOSE)


@every_kind
@torch.no_grad()
def test_packed_is_alone(kind):
    backbone, samples = build(kind), mixed(4)
    layout = pack_rows([samples[:2], samples[2:]], MODALITIES, 48).layout
    x = inputs(2, 48)
    packed = backbone(x, layout)
    for number, sample in enumerate(samples):
        here = torch.zeros(2, 48, dtype=torch.bool)
        here[number // 2] = layout.document[number // 2] == number % 2
        alone = backbone(x[here][None], documents_of(sample))
        torch.testing.assert_close(alone[0], packed[here], **CLOSE)


@every_kind
@torch.no_grad()
def test_padding_changes_nothing(kind):
    backbone, sample = build(kind), mixed(3)[2]
    length = document_length(sample, MODALITIES)
    x = inputs(1, length)
    want = backbone(x, documents_of(sample))
    for extra, seed in ((1, 1), (9, 2), (9, 3)):
        layout = pack([sample], MODALITIES, length + extra, rows=2).layout
        padded = torch.cat([torch.cat([x, inputs(1, extra, seed=seed)], 1), inputs(1, length + extra, seed=seed)])
        got = backbone(padded, layout)
        torch.testing.assert_close(got[:1, :length], want, **CLOSE)
        assert got.isfinite().all()


@every_kind
@torch.no_grad()
@pytest.mark.parametrize(
    "sample",
    [[picture(3, 2, 1), words(5, 1)], [words(4, 2), picture(2, 3, 2), words(3, 52), speech(5, 2)]],
    ids=["picture first", "all kinds"],
)
def test_cached_is_full(kind, sample):
    """A prompt at once, then words one by one and each picture as a whole; rejected passes leave no trace. Words alone:
    the tests below."""
    backbone, layout = build(kind), documents_of(sample)
    length = layout.shape[1]
    x = inputs(2, length)
    layout = twice(layout)
    full, cache, start = in_order(backbone, x, layout), backbone.init_cache(2, length), 0
    while start < length:
        end = start + 1 if start else 2
        if layout.modality[0, end - 1] == 1:
            end = start + int((layout.span[0] == layout.span[0, end - 1]).sum())
        for given in (inputs(2, end - start, seed=9), x[:, start:end]):
            got = backbone(given, part_of(layout, start, end), cache)
        torch.testing.assert_close(got, full[:, start:end], **CLOSE)
        cache.advance(torch.tensor([end - start] * 2))
        start = end


@every_kind
@torch.no_grad()
def test_cached_rows_may_differ_in_length(kind):
    """Prompts of different lengths in one cache, each continued by a picture and by words, as if it were alone."""
    backbone = build(kind)
    samples = [[words(n, n), picture(2, 2, n), words(4, n)] for n in (1, 6, 3)]
    alone = [documents_of(sample) for sample in samples]
    batch, lengths = pack_prompts([sample[:1] for sample in samples], MODALITIES, ["image"] * 3)
    x = [inputs(1, layout.shape[1], seed=n) for n, layout in enumerate(alone)]
    full = [in_order(backbone, one, layout)[0] for one, layout in zip(x, alone)]
    cache = backbone.init_cache(3, batch.layout.shape[1] + 9)
    prompt = torch.stack([torch.nn.functional.pad(o[0, :9], (0, 0, 0, 9))[: batch.layout.shape[1]] for o in x])
    got = backbone(prompt, batch.layout, cache)
    cache.advance(lengths)
    for row, n in enumerate(lengths.tolist()):
        torch.testing.assert_close(got[row, :n], full[row][:n], **CLOSE)
    done = lengths.clone()
    for step in (4, 1, 1, 1):  # the picture, its end, two words
        slots = done[:, None] + torch.arange(step)
        layout = Layout(
            **{
                name: torch.stack([getattr(one, name)[0, s] for one, s in zip(alone, slots)])
                for name in tensors_of(alone[0])
            }
        )
        got = backbone(torch.stack([one[0, s] for one, s in zip(x, slots)]), layout, cache)
        for row, s in enumerate(slots):
            torch.testing.assert_close(got[row], full[row][s], **CLOSE)
        done = done + step
        cache.advance(torch.full((3,), step))


@every_kind
@torch.no_grad()
def test_a_row_may_stand_still(kind):
    """Rows that have nothing to do are given padding, and go on later as if nothing had been."""
    backbone, layout = build(kind), documents_of([words(6)])
    x = inputs(1, 8)
    full, cache = in_order(backbone, x, layout), backbone.init_cache(2, 9)
    for moving, at in ((True, 0), (False, 0), (True, 1), (False, 0), (True, 2)):
        both = twice(part_of(layout, at, at + 1))
        both.document[1] = 0 if moving else PADDING
        got = backbone(x[:, at : at + 1].repeat(2, 1, 1), both, cache)
        cache.advance(torch.tensor([1 if moving else 0] * 2))
        if moving:
            torch.testing.assert_close(got[1], full[0, at : at + 1], **CLOSE)


@every_kind
@torch.no_grad()
def test_a_cache_forgets_and_narrows(kind):
    """A row that is taken back goes on as if what it forgot had never been; the first rows serve alone."""
    backbone, layout = build(kind), documents_of([words(6)])
    x = inputs(1, 8)
    full, cache = in_order(backbone, x, layout), backbone.init_cache(2, 9)

    def step(at):
        got = backbone(x[:, at : at + 1].repeat(2, 1, 1), twice(part_of(layout, at, at + 1)), cache)
        cache.advance(torch.tensor([1, 1]))
        return got[:, 0]

    for at in (0, 1):
        step(at)
    snapshot = cache.snapshot()
    for at in (5, 4):  # tokens that do not belong here
        step(at)
    cache.restore(snapshot, torch.tensor([True, True]))
    torch.testing.assert_close(step(2), full[0, 2].expand(2, -1), **CLOSE)
    first = backbone(x[:, 3:4], part_of(layout, 3, 4), cache.narrow(1))
    torch.testing.assert_close(first[0, 0], full[0, 3], **CLOSE)
    snapshot = cache.snapshot()
    step(7)
    cache.restore(snapshot, torch.tensor([False, True]))
    torch.testing.assert_close(step(3)[1], full[0, 3], **CLOSE)


@every_kind
@pytest.mark.parametrize(
    "present", [["text"], ["image"], ["speech"], ["text", "image"], ["image", "speech"]], ids="+".join
)
def test_any_modality_may_be_absent(kind, present):
    """Its parameters then get zero gradients, not missing ones."""
    backbone = build(kind)
    spans = {"text": words(4), "image": picture(2, 2), "speech": speech(4)}
    layout = documents_of([spans[name] for name in present])
    index = [i for i, m in enumerate(MODALITIES) if m.name in present]
    kept = torch.isin(layout.modality[0], torch.tensor(index))  # without the bounds, which are text
    layout = Layout(**{name: value[:, kept] for name, value in tensors_of(layout).items()})
    backbone(inputs(*layout.shape), layout).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())
    untied = backbone.untied_parameters() if len(backbone.towers) == 3 else {}
    for name, owners in untied.items():
        learns = {(tower, bool(g.any())) for tower, g in zip(owners, backbone.get_parameter(name).grad)}
        absent = {tower for tower, m in enumerate(MODALITIES) if m.name not in present}
        assert all(tower not in absent for tower, moved in learns if moved), name
        lone = {tower for tower in owners if owners.count(tower) == 1} - absent
        # A lone expert needs no router; of tokens that are never skipped none is weighed; a block may run for none.
        chosen = name.endswith("router") or ".skip." in name or kind == "depth blocks"
        assert chosen or all((tower, True) in learns for tower in lone), name


@every_kind
def test_a_plan_serves_as_its_layout(kind):
    backbone, layout = build(kind), pack(mixed(3), MODALITIES, 40).layout
    x = inputs(*layout.shape)
    assert torch.equal(backbone(x, backbone.plan(layout)), backbone(x, layout))


@every_kind
def test_towers_and_their_parameters_are_named(kind):
    backbone = build(kind)
    named = dict(backbone.named_parameters())
    assert backbone.dim == 32 and len(set(backbone.towers)) == len(backbone.towers) >= 1
    owned = backbone.untied_parameters()
    for name, owners in owned.items():
        assert len(owners) == len(named[name])
        assert kind in STATED or set(owners) == set(range(len(backbone.towers))) > {0}
    assert not owned or {tower for owners in owned.values() for tower in owners} == set(range(len(backbone.towers)))
    assert 0 < backbone.active_parameters() <= sum(p.numel() for p in named.values())


@every_kind
def test_it_is_built_on_the_meta_device(kind):
    meta, real = build(kind, device="meta"), build(kind)
    assert all(p.is_meta for p in meta.parameters())
    assert {n: p.shape for n, p in meta.named_parameters()} == {n: p.shape for n, p in real.named_parameters()}


@pytest.mark.skipif(not has_fbgemm(), reason="needs FBGEMM, which PyTorch has on x86 with AVX2")
@every_kind
@torch.no_grad()
def test_half_storage_is_rounded_projections(kind):
    """Over a cache, a prompt of all towers and then single tokens."""
    backbone, layout = build(kind), documents_of([words(4), picture(2, 3), words(3, 1)])
    reference = rounded(backbone)
    store_in_half(backbone)
    assert kind == "widths" or any(isinstance(layer, HalfStorage) and layer.halves for layer in backbone.modules())
    length, x = layout.shape[1], inputs(1, layout.shape[1])
    for start in (0, length - 2, length - 1):
        made = []
        for each in (backbone, reference):
            cache = each.init_cache(1, length)
            if start:
                each(x[:, :start], part_of(layout, 0, start), cache)
                cache.advance(torch.tensor([start]))
            made.append(each(x[:, start:], part_of(layout, start, length), cache))
        torch.testing.assert_close(*made, **CLOSE)


@every_kind
def test_gradient_checkpointing_changes_no_gradient(kind):
    layout = pack(mixed(3), MODALITIES, 40).layout
    found = []
    for checkpointed in (False, True):
        backbone = build(kind).train()
        backbone.gradient_checkpointing = checkpointed
        backbone(inputs(*layout.shape), layout).square().mean().backward()
        found.append([p.grad for p in backbone.parameters()])
    for a, b in zip(*found):
        torch.testing.assert_close(a, b)


# Tracing takes seconds each, so those whose forward differs most. test_compiled_training.py has dense, of which mot has
# every operation. Where tokens choose experts or layers the program breaks off to count them: hybrid stands for all.
# mamba's mixers are those of mom.
@pytest.mark.parametrize("kind", ["mot", "hybrid", "mom", "widths", "window and routed heads"])
def test_compiled_is_eager(kind):
    """Traced and lowered by torch.compile, forward and backward; Inductor itself: test_compiled_training.py."""
    torch._dynamo.reset()  # else, behind eight of them, all others run eagerly
    layout, found = pack(mixed(2), MODALITIES, 16).layout, []
    for compiled in (False, True):
        backbone = build(kind, layers=1)
        run = torch.compile(backbone, backend="aot_eager") if compiled else backbone
        x = inputs(*layout.shape).requires_grad_()
        y = run(x, backbone.plan(layout))
        y.square().mean().backward()
        found.append([y.detach(), x.grad, *(p.grad for p in backbone.parameters())])
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, **CLOSE)
