"""Next-scale prediction: the quantiser, what a token is predicted from and sees, drawing over the cache, refusals."""

import json

import pytest
import torch
import torch.nn.functional as F
from tiny import TEXT, generator, model, words

from mot_gen.errors import InputError
from mot_gen.objectives import load
from mot_gen.packing import pack, unpack
from mot_gen.pipelines.engine.decoding import TextSampling
from mot_gen.pipelines.engine.drawing import Drawing
from mot_gen.pipelines.engine.scales import OpenScales, draw_scales
from mot_gen.pipelines.engine.stream import Stream
from mot_gen.pipelines.image_to_image import ImageToImagePipeline
from mot_gen.pipelines.image_to_text import ImageToTextPipeline
from mot_gen.pipelines.interleaved import InterleavedPipeline
from mot_gen.pipelines.text_to_image import TextToImagePipeline
from mot_gen.recipes.recipe import load_recipe
from mot_gen.scales import bounds, built_from
from mot_gen.sequence import Modality, Span
from mot_gen.tokenizers.text import TextTokenizer
from mot_gen.tokenizers.train_image import CodebookAverage, ImageTrainer, VQTraining, small_scales
from mot_gen.training.build import outline_model
from mot_gen.training.trained_tokenizers import untrained_tokenizer

SCALES = ((1, 1), (2, 2), (3, 3))
N = 14
PICTURE = Modality("image", vocab_size=20, objective="next_scale", scales=SCALES)
SCALE_OF = torch.tensor([0] + [1] * 4 + [2] * 9)


def drawn(seed=0, learned=True):
    return Span("image", torch.randint(20, (N,), generator=generator(seed)), (1, N), learned)


def net(**options):
    return model([TEXT, PICTURE], objectives={"image": options})


def quantizing(scales=(1, 2, 4), entries=12):
    torch.manual_seed(0)
    tokenizer = small_scales(8, scales, entries, fold=2, widths=[8], color_channels=1)
    with torch.no_grad():
        for parameter in tokenizer.quantize.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return tokenizer


# ---------------------------------------------------------------- the quantiser


def test_all_scales_decode_to_what_the_quantiser_built_exactly():
    tokenizer, images = quantizing(), torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        found = tokenizer.quantize(tokenizer.latents(images * 2 - 1))
        own = tokenizer.reconstruct(found.built[-1]).add(1).div(2).clamp(0, 1)
        by_scale = [tokenizer.quantize.built(found.ids, count) for count in (1, 2, 3)]
    spans = tokenizer.encode_batch(list(images))
    assert torch.equal(torch.stack([span.values for span in spans]), found.ids)
    assert torch.equal(torch.stack(tokenizer.decode_batch(spans)), own)
    assert torch.equal(torch.stack(by_scale), found.built)


def test_a_scale_has_the_entries_nearest_to_what_is_still_missing():
    """By hand, with smoothing that changes nothing: codes of the residual, shrunk by areas and enlarged bilinearly."""
    tokenizer = small_scales(8, (1, 2, 4), 12, fold=2, widths=[8], color_channels=1)
    codebook = torch.randn(12, 8, generator=generator(1))
    tokenizer.quantize.codebook.embedding.weight.data.copy_(codebook)
    f = torch.randn(2, 8, 4, 4, generator=generator(2))
    built, ids = torch.zeros_like(f), []
    for side in (1, 2, 4):
        shrunk = F.adaptive_avg_pool2d(f - built, side).flatten(2).mT
        nearest = (shrunk[:, :, None] - codebook).square().sum(-1).argmin(-1)
        entries = codebook[nearest].mT.unflatten(-1, (side, side))
        built = built + F.interpolate(entries, (4, 4), mode="bilinear")
        ids.append(nearest)
    with torch.no_grad():
        found = tokenizer.quantize(f)
    assert torch.equal(found.ids, torch.cat(ids, 1))
    torch.testing.assert_close(found.built[-1], built)


def test_training_lowers_the_error_and_moves_codebook_and_smoothing():
    images = (torch.rand(40, 1, 1, 1) * torch.linspace(0, 255, 64).view(1, 1, 8, 8)).byte()
    tokenizer = small_scales(8, (1, 2, 4), 8, fold=2, widths=[8], color_channels=1)
    before = [tensor.clone() for tensor in tokenizer.quantize.state_dict().values()]
    rows = []
    options = VQTraining(steps=40, batch_size=16, warmup_steps=2, augment="none", precision="fp32", log_every=10)
    trainer = ImageTrainer(tokenizer, images, options)
    assert isinstance(trainer.codebook, CodebookAverage)
    trainer.run(rows.append)
    assert rows[-1]["reconstruction"] < 0.5 * rows[0]["reconstruction"]
    assert all(not torch.equal(a, b) for a, b in zip(before, tokenizer.quantize.state_dict().values()))


@pytest.mark.parametrize(
    "scales, complaint",
    [
        ([1, 2, 3], "scales: the last is 3 x 3, and the network makes 4 x 4 of a picture; end with 4 x 4"),
        ([4, 2], "scales: needs two scales or more, each larger than the one before, got 4 x 4, 2 x 2"),
        ([4], "needs two scales or more"),
        ([0, 4], "a scale is one side or"),
        ([[1, 1, 1], 4], r"a scale is one side or \(rows, columns\), each at least 1, got \[1, 1, 1\]"),
    ],
)
def test_an_odd_grid_of_scales_is_refused(scales, complaint):
    with pytest.raises(InputError, match=complaint):
        small_scales(8, scales, 8, fold=2, widths=[8], color_channels=1)


# ---------------------------------------------------------------- what a token sees


def test_a_scale_is_built_from_earlier_scales_alone():
    built = built_from(SCALES)
    assert not built[SCALE_OF[:, None] <= SCALE_OF].any()
    torch.testing.assert_close(built[1:5].sum(1), torch.ones(4))  # of one scale before
    torch.testing.assert_close(built[5:].sum(1), torch.full((9,), 2.0))


def logits_of(network, batch):
    """(N, K) of the picture's own ids, where it is predicted."""
    noisy, _ = network.corrupt(batch, generator(0))
    own = (noisy.layout.modality[noisy.layout.document >= 0] == 1).nonzero().flatten()
    first, end = network.vocabulary.range("image")
    hidden = network.backbone(network.embed(noisy)[0], noisy.layout)
    return network.head(hidden).flatten(0, 1)[own, first:end]


def test_no_token_sees_its_own_scale_or_a_later_one():
    """Its prediction changes with every earlier scale's tokens, and to the bit with no other."""
    network = net()
    with torch.no_grad():
        before = logits_of(network, pack([[words(3), drawn()]], network.modalities, 24))
        for place in (0, 2, 9):
            other = drawn()
            other.values[place] = (other.values[place] + 7) % 20
            after = logits_of(network, pack([[words(3), other]], network.modalities, 24))
            changed = (after != before).any(1)
            assert torch.equal(changed, SCALE_OF[place] < SCALE_OF)


def test_a_picture_that_is_read_is_read_as_its_tokens():
    """Text after it sees every one of them, also those of the last scale; the picture itself is not predicted then."""
    network = net()
    batch = pack([[drawn(), words(3)]], network.modalities, 24)
    noisy, _ = network.corrupt(batch, generator(0), tokens=True)
    assert not noisy.by_scales.any() and not network.loss_masks(noisy)["image"].any()
    with torch.no_grad():
        before = network(noisy).logits
        for place in range(N):
            other = drawn()
            other.values[place] = (other.values[place] + 7) % 20
            changed = pack([[other, words(3)]], network.modalities, 24)
            text = network.vocabulary.modality_of(batch.target_ids) == 0
            assert ((network(changed).logits - before)[text][2:].abs().amax(-1) > 0).all()


def test_packed_is_alone_and_the_loss_is_the_exact_one():
    network = net()
    documents = [[words(5, 2), drawn(2)], [words(3), drawn(1)]]  # as the packer orders them: the longest first
    with torch.no_grad():
        both = logits_of(network, pack(documents, network.modalities, 64))
        alone = torch.cat([logits_of(network, pack([each], network.modalities, 32)) for each in documents])
        torch.testing.assert_close(both, alone, atol=1e-5, rtol=1e-4)
        batch = pack(documents, network.modalities, 64)
        noisy, targets = network.corrupt(batch, generator(0))
        losses = network.losses(noisy, network(noisy), targets)["image"][network.loss_masks(noisy)["image"].bool()]
    joint = network.vocabulary.range("image")[0] + torch.cat([drawn(2).values, drawn(1).values])
    assert torch.equal(noisy.target_ids[network.loss_masks(noisy)["image"].bool()], joint)
    everything = network(noisy).logits[network.loss_masks(noisy)["image"].bool()]
    torch.testing.assert_close(losses, F.cross_entropy(everything, joint, reduction="none"))


def test_unpacking_gives_the_span_back_and_positions_are_by_scale():
    network = net()
    sample = [words(2), drawn(), words(2, 1)]
    batch = pack([sample], network.modalities, 32)
    (again,) = unpack(batch, network.modalities)
    assert [torch.equal(a.values, b.values) and a.grid == b.grid for a, b in zip(again, sample)] == [True] * 3
    own = batch.layout.modality[0] == 1
    assert torch.equal(batch.layout.position[0, own, 0], 4 + SCALE_OF)  # after the document's begin, 2 words, a begin
    end = batch.ids[0] == network.vocabulary.end["image"]
    assert batch.layout.position[0, end, 0].item() == 7 and network.vocabulary.end["image"] not in batch.target_ids


def test_tokens_are_predicted_from_errors_where_asked():
    network = net(replaced=1.0)
    batch = pack([[words(3, i), drawn(i)] for i in range(30)], network.modalities, 64)
    noisy, _ = network.corrupt(batch, generator(0), tokens=True)
    share = (noisy.ids != batch.ids)[noisy.layout.modality == 1].float().mean()
    assert 0.3 < share < 0.65 and torch.equal(noisy.target_ids, batch.target_ids)
    assert torch.equal(network.corrupt(batch, generator(0))[0].ids, batch.ids)


# ---------------------------------------------------------------- generation


@pytest.fixture(scope="module")
def parts():
    text, image = TextTokenizer.train(["a handwritten seven and a nine"] * 3, 270), quantizing()
    network = model([text.modality, image.modality], context=256)
    return {"model": network, "text_tokenizer": text, "image_tokenizer": image}


def made(cls, parts):
    pipe = cls(**parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def ids(pipe, prompt="seven", seed=0, **options):
    return pipe(prompt, output_type="latent", generator=[generator(seed)], **options).images


@torch.no_grad()
def test_drawing_over_the_cache_is_the_whole_sequences():
    """The logits of every scale, by one pass each over the cache, and by one forward pass over everything."""
    network, picture = net(), drawn(3)
    stream = Stream(network, [[words(4)], [words(6, 1)]], N + 4, opens=["image"] * 2)
    span = OpenScales(stream, "image", torch.tensor([True, True]))
    by_cache = torch.cat([span.predict(k, picture.values.repeat(2, 1)) for k in range(3)], 1)
    for row, prompt in enumerate((words(4), words(6, 1))):
        whole = logits_of(network, pack([[prompt, picture]], network.modalities, 40))
        torch.testing.assert_close(by_cache[row], whole, atol=1e-5, rtol=1e-4)
    span.close(picture.values.repeat(2, 1), torch.tensor([True, True]))
    for row, prompt in enumerate((words(4), words(6, 1))):
        batch = pack([[prompt, picture]], network.modalities, 40)
        end = (batch.ids[0] == network.vocabulary.end["image"]).nonzero()[0, 0]
        whole = network.backbone(network.embed(batch)[0], batch.layout)[0, end]
        torch.testing.assert_close(stream.hidden[row], whole, atol=1e-5, rtol=1e-4)
        assert stream.time[row] == batch.layout.position[0, end, 0] + 1


@torch.no_grad()
def test_drawing_draws_each_scale_given_the_ones_before():
    """Greedily: each token is the likeliest given the scales before it, by a forward pass over what was drawn."""
    network = net()
    stream = Stream(network, [[words(4)]], N + 2, opens=["image"])
    span = OpenScales(stream, "image", torch.tensor([True]))
    found, shown = Span("image", torch.zeros(N, dtype=torch.long), (1, N)), []
    found.values = draw_scales(span, Drawing(), TextSampling(), shown.append)[0]
    logits = logits_of(network, pack([[words(4), found]], network.modalities, 40))
    assert torch.equal(logits.argmax(-1), found.values) and [each.number for each in shown] == [0, 1, 2]
    first, end = bounds(SCALES)[1]
    assert torch.equal(shown[1].ids[0, first:end], found.values[first:end]) and not shown[1].ids[0, end:].any()


def test_a_picture_takes_a_pass_a_scale_and_does_not_depend_on_its_batch(parts, monkeypatch):
    pipe, calls, real = made(TextToImagePipeline, parts), [], OpenScales.predict
    monkeypatch.setattr(OpenScales, "predict", lambda span, k, given: calls.append(k) or real(span, k, given))
    alone = ids(pipe, "a nine and a seven", 2)
    assert calls == [0, 1, 2] and alone.shape == (1, 21)
    both = pipe(["seven", "a nine and a seven"], generator=[generator(1), generator(2)], output_type="latent").images
    assert torch.equal(both[1:], alone) and torch.equal(both[:1], ids(pipe, "seven", 1))
    assert not torch.equal(ids(pipe, guidance_scale=5.0), ids(pipe, guidance_scale=0.0))
    assert pipe("seven").images[0].size == (8, 8)


def test_pictures_are_read_and_drawn_within_documents(parts):
    pipe, image = made(InterleavedPipeline, parts), torch.rand(1, 8, 8)
    options = {"modality_order": ["text", "image", "text"], "max_new_tokens": 3}
    first, second = (pipe(["a nine"], generator=[generator(0)], output_type="latent", **options).documents[0]
                     for _ in range(2))  # fmt: skip
    assert sum(isinstance(part, torch.Tensor) for part in first) == 1
    assert all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(first, second))
    assert len(made(ImageToTextPipeline, parts)(image, max_new_tokens=2).texts) == 1


# ---------------------------------------------------------------- refused


def test_what_does_not_fit_is_refused(parts):
    pipe = made(TextToImagePipeline, parts)
    with pytest.raises(
        InputError, match="num_inference_steps: this checkpoint draws 3 scales in as many passes, got 2"
    ):
        ids(pipe, num_inference_steps=2)
    with pytest.raises(InputError, match="drawn scale by scale, and only as a whole"):
        made(ImageToImagePipeline, parts)("seven", image=torch.rand(1, 8, 8), strength=1.0)
    with pytest.raises(InputError, match="14 of its scales"):
        pack([[Span("image", torch.zeros(5, dtype=torch.long))]], [TEXT, PICTURE], 32)


@pytest.mark.parametrize(
    "modality, complaint",
    [
        ({"channels": 4, "scales": SCALES}, "scales needs discrete tokens"),
        ({"vocab_size": 4, "scales": SCALES, "bidirectional": True}, "scales needs bidirectional False"),
        ({"vocab_size": 4, "scales": [[2, 2], [1, 3]]}, "image': scales: needs two scales or more, each larger"),
        (
            {"vocab_size": 4, "scales": SCALES, "objective": "next_token"},
            "has scales, which are predicted by next_scale",
        ),
        ({"vocab_size": 4, "objective": "next_scale"}, "next_scale needs its scales"),
    ],
)
def test_a_modality_is_read_as_its_objective_needs(modality, complaint):
    with pytest.raises(InputError, match=complaint):
        model([TEXT, Modality("image", **modality)])


def test_scales_are_the_same_after_json():
    for modality in (PICTURE, TEXT):
        again = Modality(**json.loads(json.dumps(vars(modality))))
        assert again == modality and hash(again) == hash(modality)


def test_recipes_need_a_tokenizer_of_scales():
    recipe = load_recipe("var")
    tokenizers = {"text": TextTokenizer.train(["seven"], 270), "image": untrained_tokenizer(recipe.tokenizers["image"])}
    assert outline_model(recipe, tokenizers).modalities[1].scales == ((1, 1), (2, 2), (3, 3), (4, 4))
    vq = load_recipe("show-o", ["objectives.image.kind=next_scale"])
    with pytest.raises(InputError, match=r"objectives.image.kind: next_scale needs a tokenizer of several scales"):
        outline_model(vq, tokenizers | {"image": untrained_tokenizer(vq.tokenizers["image"])})
    one_by_one = load_recipe("var", ["objectives.image.kind=next_token"])
    assert outline_model(one_by_one, tokenizers).modalities[1].one_by_one
    with pytest.raises(InputError, match="next_scale needs replaced in"):
        load("next_scale", {"replaced": 2})
