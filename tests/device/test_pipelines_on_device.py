"""Every pipeline with every kind of tokenizer on the pretended device: no tensor on the wrong one, and the same results
as on a CPU. Budgets of a decoded token and of a denoising step. Passes that a CUDA graph could record."""

import pytest
import torch
from both import assert_same, on_both, quiet
from diffusers import DDIMScheduler
from PIL import Image
from pretended import pretended_cuda
from recorded import Recorded
from tiny import generator, model, words
from tiny_pipelines import build
from tokenizer_examples import EXAMPLES, chirp, speech_tokenizer

from mot_gen.backbone import fused
from mot_gen.files.image_files import to_pil
from mot_gen.objectives.flow import Objective as Flow
from mot_gen.pipelines.engine import Drawing, Guidance, Stream, TextSampling
from mot_gen.pipelines.engine.token_spans import BegunSpan, draw_tokens
from mot_gen.pipelines.image_to_image import ImageToImagePipeline
from mot_gen.pipelines.image_to_text import ImageToTextPipeline
from mot_gen.pipelines.interleaved import InterleavedPipeline
from mot_gen.pipelines.speech_to_text import SpeechToTextPipeline
from mot_gen.pipelines.text_generation import TextGenerationPipeline
from mot_gen.pipelines.text_to_image import TextToImagePipeline
from mot_gen.pipelines.text_to_speech import TextToSpeechPipeline

PICTURE = to_pil(torch.rand(3, 16, 16, generator=generator(0)))
MASK = Image.new("L", (16, 16))
MASK.paste(255, (0, 0, 16, 8))
PROMPTS = ["a seven", "a handwritten nine"]
PICTURES = [
    ("PatchImageTokenizer", "flow"),
    ("LatentImageTokenizer", "diffusion"),
    ("VQImageTokenizer", "next_token"),
    ("VQImageTokenizer", "masked"),
]
SPEECH = ["units", "SpeechCodecTokenizer"]


def components(kind: str, objective: str) -> dict:
    return build(kind, objective, context=400)


def speech_components(kind: str) -> dict:
    text = EXAMPLES["TextTokenizer"][0]()
    speech = speech_tokenizer(steps=1) if kind == "units" else EXAMPLES[kind][0]()
    net = model([text.modality, speech.modality], context=600)
    return {"model": net, "text_tokenizer": text, "speech_tokenizer": speech}


def stop_early(pipe, step: int, timestep, given: dict) -> dict:
    """Pictures of many tokens stop after a few."""
    pipe._interrupt = step >= 2
    return {}


@pytest.mark.parametrize("kind, objective", PICTURES)
def test_pictures_that_are_drawn_and_read(kind, objective):
    parts = components(kind, objective)
    steps = {"num_inference_steps": 2, "output_type": "pt", "callback_on_step_end": stop_early}
    one_by_one = objective == "next_token"

    def seeds(n: int):
        return [generator(seed) for seed in range(n)]

    def drawn(pipe):
        return pipe(PROMPTS, guidance_scale=3.0, generator=seeds(2), **steps).images

    def inpainted(pipe):
        return pipe("a seven", PICTURE, mask_image=MASK, generator=seeds(1), **steps).images

    def edited(pipe):
        return pipe("a seven", PICTURE, image_guidance_scale=2.0, generator=seeds(1), **steps).images

    def read(pipe):
        return pipe([PICTURE, PICTURE], ["a", "nine"], max_new_tokens=3).texts

    def told(pipe):
        order = ["text"] if one_by_one else ["text", "image", "text"]  # a picture of many tokens would take long
        return pipe(["a ", PICTURE], modality_order=order, max_new_tokens=4, generator=seeds(1), **steps).documents[0]

    calls = [(TextToImagePipeline, drawn), (ImageToImagePipeline, inpainted), (ImageToImagePipeline, edited)]
    calls += [(ImageToTextPipeline, read), (InterleavedPipeline, told)]
    for cls, call in calls:
        assert_same(*on_both(cls, parts, call))


def test_a_solver_that_looks_back():
    def drawn(pipe):
        pipe.scheduler = Flow(solver="unipc").scheduler()
        return pipe("a seven", generator=generator(0), num_inference_steps=4, output_type="pt").images

    assert_same(*on_both(TextToImagePipeline, components("PatchImageTokenizer", "flow"), drawn))


@pytest.mark.parametrize("kind", SPEECH)
def test_speech_that_is_spoken_and_heard(kind):
    parts = speech_components(kind)
    sound = chirp(0)[:4000]

    def spoken(pipe):
        return pipe(PROMPTS, max_new_tokens=4, guidance_scale=2.0, generator=[generator(0), generator(1)]).audios

    def heard(pipe):
        return pipe([sound, sound[:3000]], ["a", "nine"], max_new_tokens=3).texts

    assert_same(*on_both(TextToSpeechPipeline, parts, spoken))
    assert_same(*on_both(SpeechToTextPipeline, parts, heard))


def test_texts_that_are_sampled():
    def written(pipe):
        return pipe(PROMPTS, max_new_tokens=5, do_sample=True, top_p=0.9, generator=[generator(0), generator(1)]).texts

    assert_same(*on_both(TextGenerationPipeline, components("PatchImageTokenizer", "flow"), written))


# ---------------------------------------------------------------- budgets

LAYER, TOKEN, STEP = 13, 10, 8  # kernels of a layer, and beside the layers
FUSED = 10  # of a layer, with our own kernels
IN_BF16 = 16  # of a layer, with casts for the norm and the rotation of queries and keys


@pytest.fixture(params=[LAYER, FUSED], ids=["plain", "fused"])
def layer(request):
    """The kernels that a layer may launch, with and without our own."""
    fused.use(request.param == FUSED)
    yield request.param
    fused.use(False)


def each(launches, call, few: int, more: int) -> tuple[float, float]:
    """Kernels and host waits of one token or step: what `more` of them take beyond `few`."""
    call(few)  # brings to the device what stays there
    seen = []
    for count in (few, more):
        launches.clear()
        call(count)
        seen.append((launches.launched, launches.waited))
    (kernels, waits), (more_kernels, more_waits) = seen
    return (more_kernels - kernels) / (more - few), (more_waits - waits) / (more - few)


def test_a_decoded_token_is_waited_for_once(layer):
    parts = components("PatchImageTokenizer", "flow")
    layers = len(parts["model"].backbone.blocks)
    with pretended_cuda() as launches:
        pipe = quiet(TextGenerationPipeline, parts).to("cuda")
        kernels, waits = each(launches, lambda n: pipe(PROMPTS, max_new_tokens=n), 3, 7)
    assert waits <= 1
    assert kernels <= layer * layers + TOKEN


def test_tokens_that_the_host_knows_are_not_waited_for():
    """As those of some rows, where others have ended."""
    with pretended_cuda() as launches, torch.no_grad():
        stream = Stream(model().to("cuda"), [[words(3)], [words(5, 1)]], 8)
        stream.append([1, 2])
        launches.clear()
        stream.append([3, 4], [True, False])
    assert launches.waited == 0, launches.report()


def test_tokens_of_a_span_of_known_length_are_not_waited_for():
    parts = components("VQImageTokenizer", "next_token")
    with pretended_cuda() as launches:
        pipe = quiet(TextToImagePipeline, parts).to("cuda")
        _, waits = each(launches, lambda n: written(pipe, n), 3, 7)
    assert waits == 0


def written(pipe, n: int):
    """The first n tokens of two discrete pictures under guidance."""
    documents = [*[[span] for span in pipe.text_tokenizer.encode_batch(PROMPTS)], [], []]
    with torch.inference_mode():
        stream = Stream(pipe.model, documents, n, opens=["image"] * 4)
        drawing = Drawing(guidance=Guidance(3.0), generators=[generator(0), generator(1)])
        return draw_tokens(BegunSpan(stream, "image", (1, n)), drawing, TextSampling(n, temperature=1.0))


@pytest.mark.parametrize(
    ("scheduler", "layer"), [(None, LAYER), (None, FUSED), (DDIMScheduler, LAYER)], indirect=["layer"]
)
def test_a_denoising_step_is_not_waited_for(scheduler, layer):
    parts = components("PatchImageTokenizer", "flow" if scheduler is None else "diffusion")
    if scheduler is not None:
        parts["scheduler"] = scheduler.from_config(parts["scheduler"].config)
    layers = len(parts["model"].backbone.blocks)
    with pretended_cuda() as launches:
        pipe = quiet(TextToImagePipeline, parts).to("cuda")
        kernels, waits = each(launches, lambda n: pipe(PROMPTS, num_inference_steps=n), 2, 5)
    assert waits == 0
    assert kernels <= layer * layers + STEP + (0 if scheduler is None else 4)


def test_a_denoising_step_in_bf16_casts_few_values():
    """As the mask, once for all layers."""
    parts = components("PatchImageTokenizer", "flow")
    parts["model"].bfloat16()
    with pretended_cuda() as launches:
        pipe = quiet(TextToImagePipeline, parts).to("cuda")
        kernels, _ = each(launches, lambda n: pipe(PROMPTS, num_inference_steps=n), 2, 4)
    assert kernels <= IN_BF16 * len(parts["model"].backbone.blocks) + STEP + 2  # the picture is in fp32


# ---------------------------------------------------------------- CUDA graphs


@torch.no_grad()
def test_decoding_can_be_recorded_and_replayed():
    """Operations that were recorded for one token write the next ones, over the same memory, as a CUDA graph would."""
    parts = components("PatchImageTokenizer", "flow")
    net, documents = parts["model"], [[span] for span in parts["text_tokenizer"].encode_batch(PROMPTS)]

    def begun() -> Stream:
        return Stream(net, documents, room=30)

    eager, wanted = begun(), []
    for _ in range(12):
        wanted.append(net.head(eager.hidden).argmax(-1))
        eager.append(wanted[-1], None, "text")
    stream = begun()
    chosen = torch.zeros_like(wanted[0])

    def step() -> None:
        chosen.copy_(net.head(hidden).argmax(-1))
        stream.append(chosen, None, "text")
        hidden.copy_(stream.hidden)

    hidden = stream.hidden.clone()
    step()  # makes what is kept from token to token
    found = [chosen.clone()]
    with Recorded() as graph:
        step()
    found.append(chosen.clone())
    for _ in range(10):
        graph.replay()
        found.append(chosen.clone())
    assert torch.equal(torch.stack(found), torch.stack(wanted))


@torch.no_grad()
def test_denoising_can_be_recorded_and_replayed():
    parts = components("PatchImageTokenizer", "flow")
    net, documents = parts["model"], [[span] for span in parts["text_tokenizer"].encode_batch(PROMPTS)]
    stream = Stream(net, documents, room=8, opens=["image"] * 2)
    span = stream.open("image", [(2, 3)] * 2, [True] * 2)
    times = torch.tensor([1.0, 0.6, 0.3])
    told, x = span.embed(times), torch.randn(3, 2, 6, 12, generator=generator(0))
    wanted = [span(x[n], times[n], None, told[n]) for n in range(3)]
    given = x[0].clone(), times[0].clone(), told[0].clone()
    with Recorded() as graph:
        output = span(given[0], given[1], None, given[2])
    for n in range(3):
        for buffer, value in zip(given, (x[n], times[n], told[n])):
            buffer.copy_(value)
        graph.replay()
        torch.testing.assert_close(output, wanted[n], atol=1e-6, rtol=1e-5)
