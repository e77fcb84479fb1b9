"""Sequence layouts of published models: bounds inside the text's ids, wrapped texts, blocks with bounds, lone spans."""

import pytest
import torch

from mot_gen.backbone.attention import Places, sees
from mot_gen.errors import InputError
from mot_gen.model import MultimodalConfig, MultimodalModel
from mot_gen.packing import document_length, pack, pack_prompts, unpack
from mot_gen.pipelines.engine import Stream
from mot_gen.sequence import Modality, Span, Vocabulary

TEXT = Modality("text", vocab_size=20, begin=15, end=16, wraps=True, unused=((17, 19),))
BOUNDS = {"begin": 11, "end": 12, "position": "grid", "bidirectional": True, "block": True}
IMAGE = Modality("image", channels=4, objective="flow", alone=True, **BOUNDS)
SIGHT = Modality("sight", channels=3, input_only=True, **BOUNDS)
MODALITIES = [TEXT, IMAGE, SIGHT]


def text(*ids, learned=True):
    return Span("text", torch.tensor(ids), learned=learned)


def image(learned):
    return Span("image", torch.randn(2, 4, generator=torch.Generator().manual_seed(1)), (1, 2), learned)


def sight():
    return Span("sight", torch.randn(2, 3, generator=torch.Generator().manual_seed(2)), (2, 1), False)


def places_of(batch):
    bidirectional = torch.tensor([m.bidirectional for m in MODALITIES])
    return Places.of(batch.layout, bidirectional)


def test_bounds_are_rows_of_the_text_and_add_none():
    vocabulary = Vocabulary(MODALITIES)
    assert vocabulary.size == 20
    assert (vocabulary.document_begin, vocabulary.document_end) == (15, 16)
    assert vocabulary.begin == {"image": 11, "sight": 11}
    writable = [id for id, allowed in enumerate(vocabulary.writable("text").tolist()) if allowed]
    assert writable == [*range(11), 13, 14, 19]
    assert vocabulary.opened_by(11) == "image"  # what is only read is never opened


def test_a_document_is_laid_out_as_stated():
    sample = [text(1, 2, learned=False), sight(), image(True), text(3)]
    batch = pack([sample], MODALITIES, document_length(sample, MODALITIES))
    assert batch.ids[0].tolist() == [15, 1, 2, 16, 11, 0, 0, 12, 11, 0, 0, 12, 15, 3, 16]
    assert batch.layout.position[0, :, 0].tolist() == [0, 1, 2, 3, 4, 4, 4, 4, 5, 5, 5, 5, 5, 6, 7]
    assert batch.layout.modality[0].tolist() == [0, 0, 0, 0, 0, 2, 2, 0, 0, 1, 1, 0, 0, 0, 0]
    assert batch.target_slots.tolist() == [12, 13]
    assert batch.target_ids.tolist() == [3, 16]


def test_a_block_sees_itself_and_a_lone_one_is_seen_by_nobody_else():
    sample = [text(1, learned=False), sight(), image(True), text(3)]
    batch = pack([sample], MODALITIES, document_length(sample, MODALITIES))
    places = places_of(batch)
    seen = sees(places[:, :, None], places[:, None])[0]
    length = seen.shape[0]
    want = torch.ones(length, length, dtype=torch.bool).tril()
    want[3:7, 3:7] = True  # the features with their bounds
    want[7:11, 7:11] = True  # the noised image with its bounds
    want[11:, 7:11] = False
    assert torch.equal(seen, want)


def test_what_is_packed_comes_back():
    sample = [text(1, 2), sight(), image(True), text(3)]
    (again,) = unpack(pack([sample], MODALITIES, 20), MODALITIES)
    assert [span.modality for span in again] == ["text", "sight", "image", "text"]
    assert all(torch.equal(a.values, b.values) for a, b in zip(sample, again))


def tiny_model():
    torch.manual_seed(0)
    backbone = {"dim": 16, "layers": 2, "heads": 2, "towers": {"reads": ["text", "sight"], "draws": ["image"]}}
    layers = {"sight": {"kind": "connector"}}
    model = MultimodalModel(**MultimodalConfig(MODALITIES, backbone, patch_layers=layers).to_dict())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@torch.no_grad()
def test_an_open_span_is_what_the_packed_one_is():
    model = tiny_model()
    before, drawn = [text(1, 2), sight()], image(False)
    prompts = [before, []]  # an empty prompt begins with the span's own begin token
    stream = Stream(model, prompts, room=8, opens=["image", "image"])
    span = stream.open("image", [(1, 2)] * 2, torch.ones(2, dtype=torch.bool))
    time = torch.tensor(0.5)
    found = span(drawn.values.expand(2, 2, 4), time)
    for row, prompt in enumerate(prompts):
        batch = pack([[*prompt, drawn]], MODALITIES, document_length([*prompt, drawn], MODALITIES))
        for name, latents in batch.latents.items():
            latents.time = torch.full((len(latents.grids),), 0.5 if name == "image" else 0.0)
        torch.testing.assert_close(found[row], model(batch).latents["image"], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_text_after_a_drawn_span_is_what_it_is_in_the_packed_document():
    model = tiny_model()
    sample = [text(1, 2), image(False), text(3, 4)]
    stream = Stream(model, [sample[:1]], room=8, opens=["image"])
    alive = torch.ones(1, dtype=torch.bool)
    stream.open("image", [(1, 2)], alive).close(sample[1].values[None], alive)
    for id in (15, 3):
        stream.append(torch.tensor([id]), alive)
    batch = pack([sample], MODALITIES, document_length(sample, MODALITIES))
    for latents in batch.latents.values():
        latents.time = torch.zeros(len(latents.grids))
    hidden = model.backbone(model.embed(batch)[0], batch.layout)
    torch.testing.assert_close(stream.hidden[0], hidden[0, -3], atol=1e-5, rtol=1e-5)


def test_prompts_may_open_a_text():
    batch, lengths = pack_prompts([[sight()]], MODALITIES, ["text"])
    assert batch.ids[0].tolist() == [11, 0, 0, 12, 15]
    assert lengths.tolist() == [5]


def test_a_usual_modality_is_saved_as_before():
    config = MultimodalConfig([Modality("text", vocab_size=9), IMAGE], {"dim": 8, "layers": 1, "heads": 1}).to_dict()
    assert set(config["modalities"][0]) == {
        "name",
        "vocab_size",
        "channels",
        "bidirectional",
        "objective",
        "position",
    }
    assert Modality(**config["modalities"][1]) == IMAGE


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"begin": 1}, "give both begin and end"),
        ({"wraps": True}, "wraps needs the ids"),
        ({"alone": True}, "alone needs continuous tokens"),
    ],
)
def test_a_layout_that_means_nothing_is_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        Modality("text", vocab_size=9, **wrong)


def test_a_bound_outside_the_text_is_refused():
    with pytest.raises(InputError, match="bound 99 is outside the text vocabulary of 20"):
        Vocabulary([TEXT, Modality("image", channels=4, begin=99, end=12)])
