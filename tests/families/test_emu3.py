"""Emu3 against transformers' own, on a tiny random model: pictures that state their rows and columns."""

import pytest
import torch
import transformers
from comparing import (
    Noted,
    check_greedy_text,
    check_guided_ids,
    far,
    ids_of,
    of_channels,
    over,
    packed,
    picture_of,
    standardised,
    words_of,
)
from transformers.models.emu3.image_processing_emu3 import smart_resize

from mot_gen.errors import InputError
from mot_gen.families import emu3
from mot_gen.packing import unpack
from mot_gen.pipelines.image_to_text import ImageToTextPipeline
from mot_gen.pipelines.text_to_image import TextToImagePipeline
from mot_gen.tokenizers.image_edges import AreaRule

FAMILY, THEIRS = emu3, transformers.Emu3ForConditionalGeneration
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def picture():
    """6 x 10 pixels, which are 3 x 5 tokens."""
    return picture_of(6, 10)


def seen_by(theirs):
    """The published ids of the picture, with the ends of its rows."""
    given = standardised(picture(), MEAN, STD)
    return theirs.model.get_image_tokens(given, torch.tensor([[6, 10]])).long()


def framed(pipe, ids):
    """A picture of 3 x 5 as the published processor writes it."""
    specials = pipe.text_tokenizer.specials
    begin, end = (specials[name] for name in emu3.BOUNDS)
    return [begin, *ids_of(pipe, "3*5"), specials[emu3.OPENED], *ids, specials[emu3.CLOSED], end]


def sample_of(pipe):
    return words_of(pipe, "a cat "), pipe.image_tokenizer.encode(picture()), words_of(pipe, "sleeps")


@torch.no_grad()
def test_the_whole_sequence_and_its_loss_are_the_published_ones(theirs, pipe):
    sample = sample_of(pipe)
    batch, targets = pipe.model.corrupt(packed(pipe, *sample))
    want = [1, *ids_of(pipe, "a cat "), *framed(pipe, seen_by(theirs).tolist()), *ids_of(pipe, "sleeps"), 2]
    assert batch.ids[0].tolist() == want
    hidden = theirs.model.text_model(batch.ids).last_hidden_state
    assert far(pipe.model.backbone(pipe.model.embed(batch)[0], batch.layout), hidden) < 1e-5
    expected = torch.nn.functional.cross_entropy(theirs.lm_head(hidden)[0, :-1], batch.ids[0, 1:], reduction="none")
    losses = pipe.model.losses(batch, pipe.model(batch), targets)
    assert far(losses["image"], expected[batch.target_slots]) < 1e-5
    again = unpack(batch, pipe.model.modalities)[0]
    assert [span.grid for span in again] == [None, (3, 5), None]
    assert all(torch.equal(a.values, b.values) for a, b in zip(sample, again))


@torch.no_grad()
def test_a_question_about_a_picture_is_answered_as_published(theirs, pipe):
    note = Noted()
    over(pipe, ImageToTextPipeline)(picture(), "what?", max_new_tokens=4, logits_processor=[note])
    before, after = ids_of(pipe, "You are a helpful assistant. USER: "), ids_of(pipe, "what?. ASSISTANT:")
    ids = torch.tensor([[1, *before, *framed(pipe, seen_by(theirs).tolist()), *after]])
    assert pipe.model.vocabulary.document_end == 2
    check_greedy_text(pipe, note, ids, lambda ids: next_logits(theirs, ids))


def next_logits(theirs, ids):
    """(1, n) -> (1, V): of what follows."""
    return theirs.lm_head(theirs.model.text_model(ids).last_hidden_state[:, -1])


@torch.no_grad()
def test_pictures_of_any_shape_are_drawn_as_published(theirs, pipe):
    made = over(pipe, TextToImagePipeline, negative_prompt="ugly")
    options = {"height": 6, "width": 10, "temperature": 0.0, "top_k": 0}
    (ids,) = made("a red house", output_type="latent", **options).images
    head, row_end = framed(pipe, [])[:-2], pipe.text_tokenizer.specials[emu3.ROW_END]
    rows = [[1, *ids_of(pipe, text), *head] for text in ("a red house", "ugly")]

    def logits_of(row):
        return next_logits(theirs, torch.tensor([row]))[0]

    def before(number):
        return [row_end] if number and number % 5 == 0 else []

    check_guided_ids(pipe, ids, rows, logits_of, before)
    (pixels,) = made("a red house", output_type="pt", **options).images
    first, _ = pipe.model.vocabulary.range("image")
    codes = theirs.model.vocabulary_mapping.bpe2img_mapping_tensor[ids + first].long().view(1, 3, 5)
    shown = theirs.model.vqmodel.decode(codes)[0] * of_channels(STD) + of_channels(MEAN)
    assert far(pixels, shown.clamp(0, 1)) < 1e-5


def without_row_ends(ids, place):
    return torch.cat([ids[: place + 5], ids[place + 6 :]])


def without_the_header(ids, place):
    return torch.cat([ids[: place - 4], ids[place - 1 :]])


@pytest.mark.parametrize("left_out", [without_row_ends, without_the_header])
@torch.no_grad()
def test_what_is_left_out_of_a_frame_shows(theirs, pipe, left_out):
    batch = packed(pipe, *sample_of(pipe))
    place = (batch.layout.modality[0] == 1).nonzero()[0].item()
    whole = theirs.model.text_model(batch.ids).last_hidden_state[0, -1]
    short = theirs.model.text_model(left_out(batch.ids[0], place)[None]).last_hidden_state[0, -1]
    assert far(short, whole) > 0.02


@pytest.mark.parametrize("size", [(6, 10), (100, 40), (3, 3), (7, 60), (31, 33)])
def test_pictures_are_resized_by_their_area(size):
    rule = AreaRule(least=16 * 16, most=32 * 32, stride=4)
    assert rule.size_for(*size) == smart_resize(*size, factor=4, min_pixels=16 * 16, max_pixels=32 * 32)


def test_a_picture_beyond_the_familys_sizes_is_refused(pipe):
    with pytest.raises(InputError, match="height, width: this model draws sides of multiples of 2, up to 64 pixels"):
        over(pipe, TextToImagePipeline)("a", height=10, width=8)
