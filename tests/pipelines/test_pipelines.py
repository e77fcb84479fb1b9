"""Pipelines: guidance, batches, cached against full forward passes, saving, the end of documents, bad inputs."""

import inspect

import diffusers
import pytest
import torch
from tiny import clean, generator
from tiny_pipelines import CLOSE, KINDS, PICTURE, PROMPTS, a_picture, full_hidden, leaning_to

from mot_gen.errors import InputError
from mot_gen.packing import pack_rows
from mot_gen.pipelines.base import MultimodalPipeline
from mot_gen.pipelines.engine import Guidance, Stream, TextSampling, choose
from mot_gen.pipelines.engine.samplers import Schedule, integrate
from mot_gen.pipelines.image_to_text import ImageToTextPipeline
from mot_gen.pipelines.interleaved import InterleavedPipeline
from mot_gen.pipelines.text_generation import TextGenerationPipeline
from mot_gen.pipelines.text_to_image import TextToImagePipeline
from mot_gen.sequence import Span


def latents(pipe, prompt, noise, **options):
    options = {"num_inference_steps": 3, "guidance_scale": 1.0} | options
    return pipe(prompt, latents=noise, output_type="latent", **options).images


def full_prediction(model, documents, x, time):
    """The network's output for pictures x (N, n, C) at the end of each document, without a cache."""
    rows = [[[*document, Span("image", values, (2, 3))]] for document, values in zip(documents, x)]
    batch = clean(pack_rows(rows, model.modalities, 60), float(time))
    return model(batch).latents["image"].view_as(x)


# ---------------------------------------------------------------- text to image


@pytest.mark.parametrize("objective", ["flow", "diffusion"])
@pytest.mark.parametrize("scale", [1.0, 0.0, 2.5])
@torch.no_grad()
def test_drawing_with_a_cache_is_drawing_with_full_passes(pipeline, noise, scale, objective):
    """Prompts of different lengths, with guidance as one batched pair."""
    pipe = pipeline(TextToImagePipeline, objective=objective)
    if objective == "diffusion":
        pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    documents = [pipe.text_tokenizer.encode_batch([p]) for p in PROMPTS]
    model, guidance = pipe.model, Guidance(scale)
    owned = model.objectives["image"]

    def predict(x, timestep):
        time = owned.scheduler_time(timestep, pipe.scheduler)
        branches = {"conditional": documents, "unconditional": [[], []]}
        outputs = [full_prediction(model, branches[name], x, time) for name in guidance.branches]
        return owned.scheduler_output(guidance.combine(torch.cat(outputs)), x, time)

    want = integrate(predict, noise, Schedule(pipe.scheduler, 3))
    torch.testing.assert_close(latents(pipe, PROMPTS, noise, guidance_scale=scale), want, **CLOSE)


def test_guidance_1_is_conditional_and_0_unconditional(pipeline, noise):
    """Bit for bit: the other branch is not even computed."""
    pipe = pipeline(TextToImagePipeline)
    at_1 = latents(pipe, PROMPTS, noise)
    assert torch.equal(at_1, latents(pipe, PROMPTS, noise, negative_prompt="nine"))
    assert not torch.equal(at_1, latents(pipe, PROMPTS[::-1], noise))
    at_0 = latents(pipe, PROMPTS, noise, guidance_scale=0.0)
    assert torch.equal(at_0, latents(pipe, PROMPTS[::-1], noise, guidance_scale=0.0))
    assert torch.equal(
        latents(pipe, "x", noise[:1]), latents(pipe, "y", noise[:1], guidance_scale=0.0, negative_prompt="x")
    )
    torch.testing.assert_close(latents(pipe, PROMPTS, noise, guidance_scale=1 + 1e-6), at_1, **CLOSE)
    torch.testing.assert_close(latents(pipe, PROMPTS, noise, guidance_scale=1e-6), at_0, **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_does_not_depend_on_its_batch(pipeline, kind):
    pipe = pipeline(TextToImagePipeline, kind)
    options = {"num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "pt"}
    both = pipe(PROMPTS, generator=[generator(1), generator(2)], **options).images
    for number, prompt in enumerate(PROMPTS):
        alone = pipe(prompt, generator=[generator(number + 1)], **options).images
        torch.testing.assert_close(alone[0], both[number], **CLOSE)
    again = pipe(PROMPTS, generator=[generator(1), generator(2)], **options).images
    assert torch.equal(again, both)


def test_every_output_type_shows_the_same_pictures(pipeline):
    pipe = pipeline(TextToImagePipeline)
    drawn = {
        kind: pipe(
            "nine", num_images_per_prompt=2, num_inference_steps=2, generator=generator(0), output_type=kind
        ).images
        for kind in ("pil", "pt", "np", "latent")
    }
    assert [i.size for i in drawn["pil"]] == [(6, 4)] * 2
    assert drawn["pt"].shape == (2, 3, 4, 6) and drawn["latent"].shape == (2, 6, 12)
    assert torch.equal(torch.from_numpy(drawn["np"]).permute(0, 3, 1, 2), drawn["pt"])
    spans = [Span("image", values, (2, 3)) for values in drawn["latent"]]
    torch.testing.assert_close(torch.stack(pipe.image_tokenizer.decode_batch(spans)), drawn["pt"])
    assert isinstance(pipe("nine", num_inference_steps=1, return_dict=False), tuple)


def test_a_callback_sees_and_changes_the_latents(pipeline, noise):
    seen = []

    def callback(pipe, step, timestep, given):
        seen.append((step, given["latents"].shape))
        return {"latents": torch.zeros_like(given["latents"])}

    drawn = latents(pipeline(TextToImagePipeline), PROMPTS, noise, callback_on_step_end=callback)
    assert seen == [(n, (2, 6, 12)) for n in range(3)] and not drawn.any()


# ---------------------------------------------------------------- text


@torch.no_grad()
def greedy_by_full_passes(pipe, sample, count):
    """Token after token, each by a forward pass over the whole document, among what text allows."""
    model, written = pipe.model, []
    for _ in range(count):
        spans = [*sample, Span("text", torch.tensor(written))] if written else sample
        logits = model.head(full_hidden(model, [spans])[0][-1])
        allowed = torch.full_like(logits, float("-inf"))
        allowed[: model.modalities[0].vocab_size] = 0
        allowed[[model.vocabulary.document_end, model.vocabulary.begin["image"]]] = 0
        token = int((logits + allowed).argmax())
        if token >= model.modalities[0].vocab_size:
            break
        written.append(token)
    return pipe.text_tokenizer.decode(Span("text", torch.tensor(written, dtype=torch.long)))


def test_text_with_a_cache_is_text_by_full_passes(pipeline):
    """Also with prompts of different lengths in one batch, and after pictures."""
    pipe = pipeline(TextGenerationPipeline)
    want = [greedy_by_full_passes(pipe, pipe.text_tokenizer.encode_batch([p]), 8) for p in PROMPTS]
    assert pipe(PROMPTS, max_new_tokens=8).texts == want
    assert pipe(PROMPTS, max_new_tokens=8, return_full_text=True).texts == [p + w for p, w in zip(PROMPTS, want)]
    assert [pipe(p, max_new_tokens=8).texts[0] for p in PROMPTS] == want


def test_captions_with_a_cache_are_captions_by_full_passes(pipeline):
    pipe, pictures = pipeline(ImageToTextPipeline), [PICTURE, 1 - PICTURE]
    want = [greedy_by_full_passes(pipe, [span], 8) for span in pipe.image_tokenizer.encode_batch(pictures)]
    assert pipe(pictures, max_new_tokens=8).texts == want
    asked = [[s, *pipe.text_tokenizer.encode_batch(["what"])] for s in pipe.image_tokenizer.encode_batch(pictures)]
    want = [greedy_by_full_passes(pipe, sample, 8) for sample in asked]
    assert pipe(pictures, prompt="what", max_new_tokens=8).texts == want


def test_greedy_text_does_not_touch_the_random_state(pipeline):
    pipe, own = pipeline(TextGenerationPipeline), generator(4)
    before = torch.get_rng_state()
    first = pipe(PROMPTS, max_new_tokens=5).texts
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert pipe(PROMPTS, max_new_tokens=5, generator=own).texts == first


def test_sampled_text_does_not_depend_on_its_batch(pipeline):
    pipe = pipeline(TextGenerationPipeline)
    options = {"max_new_tokens": 12, "do_sample": True, "temperature": 1.5}
    both = pipe(PROMPTS, generator=[generator(1), generator(2)], **options).texts
    alone = [pipe(p, generator=[generator(n + 1)], **options).texts[0] for n, p in enumerate(PROMPTS)]
    assert both == alone and len(set(both)) == 2


def test_tokens_are_drawn_with_their_probabilities():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).expand(20_000, 4)
    torch.manual_seed(0)
    for options, kept in (({}, 4), ({"top_k": 2}, 2), ({"top_p": 0.8}, 2), ({"top_p": 1e-6}, 1)):
        ids = choose(logits, TextSampling(temperature=0.8, **options))
        want = (logits[0, :kept] / 0.8).softmax(-1)
        torch.testing.assert_close(torch.bincount(ids, minlength=4)[:kept] / 20_000, want, atol=0.012, rtol=0)
        assert ids.max() < kept
    assert not choose(logits, TextSampling(temperature=0)).any()


# ---------------------------------------------------------------- both


@torch.no_grad()
def test_text_after_a_drawn_picture_sees_it_clean(pipeline, noise):
    """Denoising passes and their noise leave no trace: the hidden state is that of the finished document."""
    model = pipeline(MultimodalPipeline).model
    documents = [pipeline(MultimodalPipeline).text_tokenizer.encode_batch([p]) for p in PROMPTS]
    stream = Stream(model, documents, room=20, opens=["image"] * 2)
    alive = torch.ones(2, dtype=torch.bool)
    span = stream.open("image", [(2, 3)] * 2, alive)
    for time in (1.0, 0.6):
        span(torch.randn(2, 6, 12), torch.tensor(time))
    span.close(noise, alive)
    words = torch.tensor([5, 9, 2])
    for token in words:
        stream.append(token.repeat(2), alive)
    samples = [[*d, Span("image", x, (2, 3)), Span("text", words)] for d, x in zip(documents, noise)]
    for got, want in zip(stream.hidden, full_hidden(model, samples)):
        torch.testing.assert_close(got, want[-1], **CLOSE)


@pytest.mark.parametrize("kind", ["PatchImageTokenizer", "VQImageTokenizer"])
def test_a_document_of_pictures_ends_with_its_context(pipeline, kind):
    pipe = leaning_to(pipeline(InterleavedPipeline, kind), a_picture)
    tokens = pipe.image_tokenizer.grid[0] * pipe.image_tokenizer.grid[1]
    written = pipe(["a"], max_new_tokens=30, num_samples=2, num_inference_steps=1, guidance_scale=2.0).documents
    most = (128 - 3) // (tokens + 2)
    for document in written:
        assert len(document) == most and not any(isinstance(segment, str) for segment in document)


def test_a_document_may_end_at_once(pipeline):
    pipe = leaning_to(pipeline(InterleavedPipeline), lambda vocabulary: vocabulary.document_end)
    assert pipe(max_new_tokens=10, num_samples=2).documents == [[], []]


def test_pictures_are_limited_by_the_number_of_tokens(pipeline):
    pipe = leaning_to(pipeline(InterleavedPipeline), a_picture)
    (written,) = pipe(["a"], max_new_tokens=3, num_inference_steps=1).documents
    assert len(written) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_interleaved_documents_do_not_depend_on_their_batch(pipeline, kind):
    pipe = leaning_to(pipeline(InterleavedPipeline, kind), a_picture, bias=8.0)
    options = {
        "max_new_tokens": 40,
        "num_inference_steps": 1,
        "do_sample": True,
        "temperature": 2.0,
        "output_type": "pt",
    }
    seeds = range(3)
    together = pipe(
        ["a"], num_samples=3, generator=[generator(s) for s in seeds], guidance_scale=2.0, **options
    ).documents
    pictures = 0
    for seed, document in zip(seeds, together):
        (alone,) = pipe(["a"], generator=[generator(seed)], guidance_scale=2.0, **options).documents
        assert [type(s) for s in alone] == [type(s) for s in document]
        for a, b in zip(alone, document):
            if isinstance(a, str):
                assert a == b
            else:
                pictures += 1
                torch.testing.assert_close(a, b, **CLOSE)
    assert pictures


# ---------------------------------------------------------------- saving


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "cls",
    [TextToImagePipeline, ImageToTextPipeline, TextGenerationPipeline, InterleavedPipeline],
    ids=lambda c: c.__name__,
)
def test_saved_and_loaded_every_component_is_there(pipeline, tmp_path, kind, cls):
    pipe = pipeline(cls, kind)
    pipe.save_pretrained(tmp_path)
    back = cls.from_pretrained(tmp_path)
    back.set_progress_bar_config(disable=True)
    for name, component in pipe.components.items():
        assert type(back.components[name]) is type(component), name
    if cls is TextToImagePipeline:
        options = {"num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "pt"}
        before, after = (p(PROMPTS, generator=generator(0), **options).images for p in (pipe, back))
        torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
    elif cls is ImageToTextPipeline:
        assert back(PICTURE, max_new_tokens=6).texts == pipe(PICTURE, max_new_tokens=6).texts
    elif cls is TextGenerationPipeline:
        assert back(PROMPTS, max_new_tokens=6).texts == pipe(PROMPTS, max_new_tokens=6).texts
    else:
        options = {"max_new_tokens": 4, "num_inference_steps": 1, "output_type": "pt", "guidance_scale": 1.0}
        before, after = (p(["a", PICTURE], **options, generator=generator(0)).documents for p in (pipe, back))
        assert [[type(s) for s in d] for d in before] == [[type(s) for s in d] for d in after]


# ---------------------------------------------------------------- bad inputs


LONG = "a very long prompt " * 20


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ({"prompt": ""}, "prompt is empty; .*guidance_scale=0"),
        ({"prompt": ["a", ""]}, "prompt is empty"),
        ({"prompt": []}, "prompt must be a text or a list of texts"),
        ({"prompt": 7}, "prompt must be a text or a list of texts, got int 7"),
        ({"prompt": LONG}, "prompt: its .* exceed the 128 .*shorten it"),
        ({"negative_prompt": LONG}, "exceed the 128"),
        ({"negative_prompt": ""}, "negative_prompt is empty"),
        (
            {"prompt": ["a", "b", "c"], "negative_prompt": ["a", "b"]},
            "negative_prompt: 2 texts were given for 3 images",
        ),
        ({"height": 8}, "height, width: this model draws 4 x 6, got 8 x any"),
        ({"width": 7}, "height, width"),
        ({"num_inference_steps": 0}, "num_inference_steps must be a positive integer, got 0"),
        ({"num_inference_steps": 2.5}, "num_inference_steps"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be a number of at least 0"),
        ({"guidance_scale": -1.0}, "guidance_scale"),
        ({"num_images_per_prompt": 0}, "must be a positive integer, got 0"),
        ({"output_type": "png"}, "output_type must be pil"),
        ({"generator": [torch.Generator()] * 2}, "2 generators were given for 1 samples"),
        ({"latents": [0.0]}, "latents must be a tensor of floats, got"),
        ({"latents": torch.full((1, 6, 12), float("nan"))}, "latents hold NaN"),
        ({"generator": 3}, "generator must be a torch.Generator or a list of them, got int"),
        ({"callback_on_step_end": 3}, "callback_on_step_end must be a function, got 3"),
        ({"callback_on_step_end_tensor_inputs": 1.0}, "tensor_inputs must be a list of names, got 1.0"),
        ({"num_inference_steps": True}, "num_inference_steps must be a positive integer, got True"),
        ({"guidance": 3.0}, "TextToImagePipeline takes no 'guidance'; did you mean 'guidance_scale'"),
        ({"latents": torch.zeros(2, 6, 12)}, r"latents must be of shape \(1, 6, 12\), got \(2, 6, 12\)"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)
def test_bad_requests_for_a_picture_are_refused_before_any_work(idle, arguments, complaint):
    with pytest.raises(InputError, match=complaint) as error:
        idle(TextToImagePipeline)(**{"prompt": "nine"} | arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "cls, arguments, complaint",
    [
        (TextGenerationPipeline, {"prompt": ""}, "prompt is empty"),
        (TextGenerationPipeline, {"prompt": LONG}, "exceed the 128"),
        (TextGenerationPipeline, {"prompt": "a", "max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        (TextGenerationPipeline, {"prompt": "a", "temperature": -1.0, "do_sample": True}, "temperature"),
        (TextGenerationPipeline, {"prompt": "a", "temperature": float("nan"), "do_sample": True}, "temperature"),
        (TextGenerationPipeline, {"prompt": "a", "top_p": 0.0}, "top_p"),
        (TextGenerationPipeline, {"prompt": "a", "temperature": "hot", "do_sample": True}, "temperature .* got 'hot'"),
        (TextGenerationPipeline, {"prompt": "a", "top_k": -1}, "top_k"),
        (TextGenerationPipeline, {"prompt": "a", "top_k": 2.5}, "top_k must be a whole number"),
        (TextGenerationPipeline, {"prompt": "a\ud800"}, "lone surrogate"),
        (TextGenerationPipeline, {"prompt": "a", "stop": 3}, "stop must be a text or a list of texts"),
        (TextGenerationPipeline, {"prompt": "a", "max_new_tokens": {}}, "max_new_tokens must be at least 1, got {}"),
        (InterleavedPipeline, {"max_images": True}, "max_images must be a whole number"),
        (ImageToTextPipeline, {"image": []}, "image: the list is empty"),
        (ImageToTextPipeline, {"image": b"no picture"}, "image"),
        (ImageToTextPipeline, {"image": PICTURE, "prompt": ["a", "b"]}, "2 texts were given for 1 pictures"),
        (InterleavedPipeline, {"guidance_scale": 0.0}, "guidance_scale must be above 0"),
        (InterleavedPipeline, {"prompt": [LONG]}, "exceed the 128"),
    ],
)
def test_other_bad_requests_are_refused_before_any_work(idle, cls, arguments, complaint):
    with pytest.raises(InputError, match=complaint) as error:
        idle(cls)(**{"max_new_tokens": 5} | arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cls", [TextGenerationPipeline, TextToImagePipeline, InterleavedPipeline])
def test_a_hundred_thousand_characters_are_refused_also_where_the_model_states_no_context(idle, cls):
    with pytest.raises(InputError, match="exceed the 16384 that are taken where a model states no context; shorten it"):
        idle(cls, context=None)("seven " * 17_000)


def test_shared_arguments_stand_in_the_signature_and_in_the_help():
    for cls, names in (
        (TextToImagePipeline, ["prompt", "height", "width", "guidance_scale", "latents", "callback_on_step_end"]),
        (InterleavedPipeline, ["max_images", "max_new_tokens", "streamer", "num_inference_steps", "generator"]),
    ):
        parameters = inspect.signature(cls.__call__).parameters
        assert set(names) <= set(parameters) and not {"options", "text", "images"} & set(parameters)
        assert all(name in cls.__call__.__doc__ for name in names if name != "prompt")


def test_a_scheduler_of_the_wrong_kind_is_refused(idle):
    for objective, foreign in (
        ("flow", diffusers.DDIMScheduler()),
        ("diffusion", diffusers.FlowMatchEulerDiscreteScheduler()),
        ("flow", None),
    ):
        with pytest.raises(
            InputError, match=f"scheduler: {type(foreign).__name__} does not fit this model; use (a|one)"
        ):
            idle(TextToImagePipeline, objective=objective, scheduler=foreign)("nine")


def test_a_pipeline_without_the_tokenizer_of_pictures_says_so(components):
    parts = components()
    for cls, arguments in ((TextToImagePipeline, {"prompt": "a"}), (ImageToTextPipeline, {"image": PICTURE})):
        with pytest.raises(InputError, match=f"{cls.__name__} has no image_tokenizer; give it one"):
            cls(parts["model"], parts["text_tokenizer"])(**arguments)
