"""Emu3 against transformers' own, on a tiny random model: pictures that state their rows and columns."""

import numpy as np
import pytest
import torch
import transformers
from comparing import Noted, converted, far, over, picture_of
from transformers.models.emu3.image_processing_emu3 import smart_resize

from mot_gen.errors import InputError
from mot_gen.families import emu3
from mot_gen.packing import document_length, pack, unpack
from mot_gen.pipelines.image_to_text import ImageToTextPipeline
from mot_gen.pipelines.text_to_image import TextToImagePipeline
from mot_gen.sequence import Span
from mot_gen.tokenizers.image_edges import AreaRule


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("emu3")
    emu3.tiny(found / "published")
    return found


@pytest.fixture(scope="module")
def theirs(folder):
    return transformers.Emu3ForConditionalGeneration.from_pretrained(folder / "published").eval()


@pytest.fixture(scope="module")
def pipe(folder, theirs):
    return converted(folder / "published", folder / "ours")


def picture():
    """6 x 10 pixels, which are 3 x 5 tokens."""
    return picture_of(6, 10)


def seen_by(theirs):
    """The published ids of the picture, with the ends of its rows."""
    colours = torch.tensor([[0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]])
    bytes_of = torch.from_numpy(np.array(picture())).float().permute(2, 0, 1) / 255
    given = (bytes_of - colours[0, :, None, None]) / colours[1, :, None, None]
    return theirs.model.get_image_tokens(given[None], torch.tensor([[6, 10]])).long()


def framed(pipe, ids):
    """A picture of 3 x 5 as the published processor writes it."""
    specials, text = pipe.text_tokenizer.specials, pipe.text_tokenizer
    begin, end = (specials[name] for name in emu3.BOUNDS)
    return [begin, *text.encode("3*5").values.tolist(), specials[emu3.OPENED], *ids, specials[emu3.CLOSED], end]


def batch_of(pipe):
    words = pipe.text_tokenizer.encode("a cat ").values, pipe.text_tokenizer.encode("sleeps").values
    sample = [Span("text", words[0]), pipe.image_tokenizer.encode(picture()), Span("text", words[1])]
    return pack([sample], pipe.model.modalities, document_length(sample, pipe.model.modalities)), words, sample


@torch.no_grad()
def test_the_whole_sequence_and_its_loss_are_the_published_ones(theirs, pipe):
    batch, words, sample = batch_of(pipe)
    batch, targets = pipe.model.corrupt(batch)
    want = [1, *words[0].tolist(), *framed(pipe, seen_by(theirs).tolist()), *words[1].tolist(), 2]
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
    note, encode = Noted(), pipe.text_tokenizer.encode
    over(pipe, ImageToTextPipeline)(picture(), "what?", max_new_tokens=4, logits_processor=[note])
    before, after = (
        encode(text).values.tolist() for text in ("You are a helpful assistant. USER: ", "what?. ASSISTANT:")
    )
    ids = torch.tensor([[1, *before, *framed(pipe, seen_by(theirs).tolist()), *after]])
    writable = pipe.model.vocabulary.writable("text")
    writable[2] = True
    for scores in note:
        logits = theirs.lm_head(theirs.model.text_model(ids).last_hidden_state[:, -1])
        assert far(scores, logits[0]) < 1e-5
        ids = torch.cat([ids, logits.masked_fill(~writable, -torch.inf).argmax(-1, keepdim=True)], 1)


@torch.no_grad()
def test_pictures_of_any_shape_are_drawn_as_published(theirs, pipe):
    made = over(pipe, TextToImagePipeline, negative_prompt="ugly")
    options = {"height": 6, "width": 10, "temperature": 0.0, "top_k": 0}
    (ids,) = made("a red house", output_type="latent", **options).images
    encode, specials = pipe.text_tokenizer.encode, pipe.text_tokenizer.specials
    head = framed(pipe, [])[:-2]
    rows = [[1, *encode(text).values.tolist(), *head] for text in ("a red house", "ugly")]
    first, last = pipe.model.vocabulary.range("image")
    for number, id in enumerate(ids.tolist()):
        if number and number % 5 == 0:
            rows = [[*row, specials[emu3.ROW_END]] for row in rows]
        hidden = [theirs.model.text_model(torch.tensor([row])).last_hidden_state[0, -1] for row in rows]
        given, away = (theirs.lm_head(state)[first:last] for state in hidden)
        assert (away + 3 * (given - away)).argmax() == id
        rows = [[*row, id + first] for row in rows]
    (pixels,) = made("a red house", output_type="pt", **options).images
    codes = theirs.model.vocabulary_mapping.bpe2img_mapping_tensor[ids + first].long().view(1, 3, 5)
    colours = torch.tensor([[0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]])
    shown = theirs.model.vqmodel.decode(codes)[0] * colours[1, :, None, None] + colours[0, :, None, None]
    assert far(pixels, shown.clamp(0, 1)) < 1e-5


def without_row_ends(ids, place):
    return torch.cat([ids[: place + 5], ids[place + 6 :]])


def without_the_header(ids, place):
    return torch.cat([ids[: place - 4], ids[place - 1 :]])


@pytest.mark.parametrize("left_out", [without_row_ends, without_the_header])
@torch.no_grad()
def test_what_is_left_out_of_a_frame_shows(theirs, pipe, left_out):
    batch, *_ = batch_of(pipe)
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
