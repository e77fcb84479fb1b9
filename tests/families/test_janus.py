"""Janus against transformers' own, on a tiny random model: pictures that are read, and that are drawn."""

import pytest
import torch
import transformers
from comparing import Noted, converted, far, ids_of, of_channels, over, packed, picture_of, standardised, words_of
from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil

from mot_gen.families import janus
from mot_gen.pipelines.image_to_text import ImageToTextPipeline
from mot_gen.pipelines.text_to_image import TextToImagePipeline
from mot_gen.sequence import Span

FAMILY, THEIRS = janus, transformers.JanusForConditionalGeneration
STD = [0.4, 0.5, 0.6]  # of the pictures' colours, about 0.5


def picture():
    return picture_of(20, 30)


def pixel_values(folder):
    processor = JanusImageProcessorPil.from_pretrained(folder / "published")
    return processor(picture(), return_tensors="pt").pixel_values.float()


@torch.no_grad()
def test_a_picture_is_filled_up_and_read_as_published(folder, theirs, pipe):
    want = pixel_values(folder)
    sight = pipe.sight_tokenizer
    found = sight._standardised(sight.pixels_of(picture())[None] * 2 - 1)
    assert far(found, want) < 1e-6
    span = sight.encode(picture())
    seen = theirs.model.get_image_features(want)
    assert far(span.values, seen.last_hidden_state[0]) < 1e-5
    tokens, _ = pipe.model.patch_layers["sight"].encode(packed(pipe, span).latents["sight"])
    assert far(tokens, seen.pooler_output[0]) < 1e-5


def question(pipe):
    """The published conversation around a picture, in parts: before it, and after it."""
    specials = pipe.text_tokenizer.specials
    before = [*ids_of(pipe, janus.SYSTEM), specials["<|User|>"], *ids_of(pipe, ": ")]
    after = [*ids_of(pipe, "\nwhat is it?\n\n"), specials["<|Assistant|>"], *ids_of(pipe, ":")]
    return before, after


@torch.no_grad()
def test_a_question_about_a_picture_is_answered_as_published(folder, theirs, pipe):
    before, after = question(pipe)
    begin, end = pipe.model.vocabulary.begin["sight"], pipe.model.vocabulary.end["sight"]
    ids = torch.tensor([[0, *before, begin, *[3] * 9, end, *after]])
    forbidden = (~pipe.model.vocabulary.writable("text")).nonzero().flatten().tolist()
    options = {"max_new_tokens": 6, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    given = {"pixel_values": pixel_values(folder), "attention_mask": torch.ones_like(ids)}
    forbidden = [id for id in forbidden if id < 280 and id != 1]
    want = theirs.generate(input_ids=ids, suppress_tokens=forbidden, **given, **options)
    note = Noted()
    over(pipe, ImageToTextPipeline)(picture(), "what is it?", max_new_tokens=6, logits_processor=[note])
    assert far(note.scores[:, :280], torch.cat(want.logits)) < 1e-5


def prompt_ids(pipe, text):
    specials, middle = pipe.text_tokenizer.specials, ids_of(pipe, f": {text}\n\n")
    ends = [specials["<|Assistant|>"], *ids_of(pipe, ":"), pipe.model.vocabulary.begin["image"]]
    return torch.tensor([[0, specials["<|User|>"], *middle, *ends]])


def drawn_by(theirs, pipe, scale):
    ids = prompt_ids(pipe, "a red house")
    config = transformers.GenerationConfig(
        do_sample=False, guidance_scale=scale, pad_token_id=2, bos_token_id=0, eos_token_id=1, max_length=100
    )
    config.generation_kwargs = {"boi_token_id": pipe.model.vocabulary.begin["image"]}
    mask = torch.ones_like(ids)
    return theirs.generate(inputs=ids, attention_mask=mask, generation_mode="image", generation_config=config)


@torch.no_grad()
def test_pictures_are_drawn_as_published(theirs, pipe):
    want = drawn_by(theirs, pipe, 5)
    made = over(pipe, TextToImagePipeline)
    (ids,) = made("a red house", temperature=0.0, output_type="latent").images
    assert torch.equal(ids, want[0])
    (pixels,) = made("a red house", temperature=0.0, output_type="pt").images
    shown = theirs.model.vqmodel.decode(want)[0] * of_channels(STD) + 0.5
    assert far(pixels, shown.clamp(0, 1)) < 1e-5
    assert len(want[0].unique()) > 3


@torch.no_grad()
def test_an_empty_unconditional_prompt_is_another(theirs, pipe):
    made = over(pipe, TextToImagePipeline, unconditional="empty")
    (ids,) = made("a red house", temperature=0.0, output_type="latent").images
    assert not torch.equal(ids, drawn_by(theirs, pipe, 5)[0])


def drawn_sample(pipe):
    codes = torch.arange(9) * 7 % 50
    return packed(pipe, words_of(pipe, "a red house"), Span("image", codes, (3, 3))), codes


def hidden_by(theirs, batch, codes):
    """The published hidden states of text, then a picture's codes, then its end and the document's."""
    table = theirs.get_input_embeddings()
    own = (batch.layout.modality[0] == 2).nonzero().flatten()
    embedded = table(batch.ids[0].clamp_max(279))
    embedded[own] = theirs.prepare_embeddings_for_image_generation(codes)
    return theirs.model.language_model(inputs_embeds=embedded[None]).last_hidden_state[0]


@torch.no_grad()
def test_losses_are_each_over_their_own_ids(theirs, pipe):
    batch, codes = drawn_sample(pipe)
    batch, targets = pipe.model.corrupt(batch)
    want = hidden_by(theirs, batch, codes)
    losses, masks = pipe.model.losses(batch, pipe.model(batch), targets), pipe.model.loss_masks(batch)
    own = (batch.layout.modality[0] == 2).nonzero().flatten()
    image = torch.nn.functional.cross_entropy(theirs.model.generation_head(want[own - 1]), codes, reduction="none")
    assert far(losses["image"][masks["image"].bool()], image) < 1e-5
    text = batch.target_slots[masks["text"].bool()]
    expected = torch.nn.functional.cross_entropy(theirs.lm_head(want[text]), batch.ids[0, text + 1], reduction="none")
    assert far(losses["text"][masks["text"].bool()], expected) < 1e-5


def head_without_biases(model):
    model.token_layers["image"].head1.bias.zero_()


def codes_of_one_length(model):
    codes = model.token_layers["image"].codes.weight
    codes.copy_(torch.nn.functional.normalize(codes, dim=-1))


@pytest.mark.parametrize("left_out", [head_without_biases, codes_of_one_length])
@torch.no_grad()
def test_what_is_left_out_of_the_ids_own_layers_shows(theirs, pipe, left_out):
    batch, codes = drawn_sample(pipe)
    own = (batch.layout.modality[0] == 2).nonzero().flatten()
    want = theirs.model.generation_head(hidden_by(theirs, batch, codes)[own])
    kept = {name: value.clone() for name, value in pipe.model.token_layers.state_dict().items()}

    def found():
        hidden = pipe.model.backbone(pipe.model.embed(batch)[0], batch.layout)[0, own]
        return pipe.model.token_layers["image"].logits(hidden)

    assert far(found(), want) < 1e-5
    left_out(pipe.model)
    apart = far(found(), want)
    pipe.model.token_layers.load_state_dict(kept)
    assert apart > 0.02


@torch.no_grad()
def test_the_codes_of_a_picture_are_the_published_ones(theirs, pipe):
    small = picture().resize((12, 12))
    given = standardised(small, 0.5, STD)
    assert torch.equal(pipe.image_tokenizer.encode(small).values, theirs.model.vqmodel.encode(given).image_tokens)


@torch.no_grad()
def test_a_tied_head_is_the_embedding(tmp_path):
    janus.tiny(tmp_path / "published", tied=True)
    found = converted(tmp_path / "published", tmp_path / "ours").model
    assert torch.equal(found.head.weight, found.embedding.weight)
