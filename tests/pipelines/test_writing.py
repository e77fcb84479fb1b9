"""What steers writing: stop strings, logits processors, streamers, chat messages, limits and orders of spans."""

import threading

import pytest
import torch
from tiny import generator, model
from tiny_pipelines import PICTURE, PROMPTS, a_picture, leaning_to
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor, TextIteratorStreamer

from mot_gen.errors import InputError
from mot_gen.pipelines.chat import PartReader, spans_of
from mot_gen.pipelines.engine import Drawing, Guidance, Rules, StopStrings, Stream, TextSampling, Writer
from mot_gen.pipelines.image_to_text import ImageToTextPipeline
from mot_gen.pipelines.interleaved import InterleavedPipeline
from mot_gen.pipelines.text_generation import TextGenerationPipeline
from mot_gen.pipelines.text_to_image import TextToImagePipeline
from mot_gen.sequence import Modality, Span
from mot_gen.tokenizers.text import TextTokenizer

# ---------------------------------------------------------------- stop strings


def test_text_ends_before_a_stop_string(pipeline):
    """Whatever the tokens are that spell it; rows of a batch end each on their own."""
    pipe = pipeline(TextGenerationPipeline)
    texts = pipe(PROMPTS, max_new_tokens=20).texts
    assert all(len(text) > 6 for text in texts)
    for stop in (texts[0][3:6], [texts[0][3:6], texts[1][2:5]]):
        strings = [stop] if isinstance(stop, str) else stop
        want = [text[: min([text.find(s) for s in strings if s in text] or [len(text)])] for text in texts]
        assert pipe(PROMPTS, max_new_tokens=20, stop=stop).texts == want
        assert want[0] == texts[0][: texts[0].find(texts[0][3:6])]


def test_a_stop_string_may_be_spread_over_tokens_and_bytes(pipeline):
    tokenizer = pipeline(TextGenerationPipeline).text_tokenizer
    ends, ids = StopStrings("né\u00df", tokenizer), tokenizer.encode("a né\u00df and more").values.tolist()
    fires = [n for n in range(1, len(ids) + 1) if ends(ids[:n])]
    assert tokenizer.decode(ids[: fires[0]]) == "a né\u00df" and ends.cut("a né\u00df b né\u00df") == "a "


@pytest.mark.parametrize("stop", ["", [], ["a", ""], [3]])
def test_a_stop_string_is_text(idle, stop):
    with pytest.raises(InputError, match="stop must be a text or a list of texts, none empty"):
        idle(TextGenerationPipeline)("a", stop=stop)


# ---------------------------------------------------------------- logits processors


def test_logits_processors_see_the_whole_document_and_decide(pipeline):
    pipe, seen = pipeline(TextGenerationPipeline), []

    def only_nines(ids, scores):
        seen.append(ids[0].tolist())
        allowed = pipe.text_tokenizer.encode("9").values
        return torch.full_like(scores, -1e9).index_fill(1, allowed, 0.0)

    assert pipe(PROMPTS, max_new_tokens=3, logits_processor=[only_nines]).texts == ["999", "999"]
    prompt = pipe.text_tokenizer.encode(PROMPTS[1]).values.tolist()
    nine = pipe.text_tokenizer.encode("9").values.tolist()
    assert [pipe.model.vocabulary.document_begin, *prompt, *nine, *nine] in seen


def test_a_list_of_transformers_changes_nothing_alone_or_in_a_batch(pipeline):
    pipe = pipeline(TextGenerationPipeline)
    processors = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(0.05)])
    both = pipe(PROMPTS, max_new_tokens=12, logits_processor=processors).texts
    assert both != pipe(PROMPTS, max_new_tokens=12).texts
    assert [pipe(p, max_new_tokens=12, logits_processor=processors).texts[0] for p in PROMPTS] == both


# ---------------------------------------------------------------- streaming


@pytest.mark.parametrize("cls, given", [(TextGenerationPipeline, PROMPTS[0]), (ImageToTextPipeline, PICTURE)])
def test_a_streamer_of_transformers_is_given_what_is_written(pipeline, cls, given):
    pipe = pipeline(cls)
    want = pipe(given, max_new_tokens=10).texts[0]
    streamer = TextIteratorStreamer(pipe.text_tokenizer, skip_prompt=True, timeout=60)
    thread = threading.Thread(target=pipe, args=(given,), kwargs={"max_new_tokens": 10, "streamer": streamer})
    thread.start()
    assert "".join(streamer) == want
    thread.join()


def test_one_text_is_streamed_at_a_time(idle):
    with pytest.raises(InputError, match="streamer: one document can be streamed at a time, got 2"):
        pipe = idle(TextGenerationPipeline)
        pipe(PROMPTS, streamer=TextIteratorStreamer(pipe.text_tokenizer))


def test_previews_come_ever_closer_to_the_picture(pipeline, noise):
    """The expected picture of each step; the last one, for a flow at its end, is the picture itself."""
    pipe, previews = pipeline(TextToImagePipeline), []

    def callback(pipe, step, timestep, given):
        previews.append(given["pred_original_sample"])
        return {}

    drawn = pipe(
        PROMPTS,
        latents=noise,
        num_inference_steps=6,
        output_type="latent",
        callback_on_step_end=callback,
        callback_on_step_end_tensor_inputs=["pred_original_sample"],
    ).images
    away = [(preview - drawn).square().mean().item() for preview in previews]
    assert len(previews) == 6 and away[-1] < 1e-6 and away[-1] < away[2] < away[0]
    assert pipe.decode_latents(previews[-1], "pt").shape == (2, 3, 4, 6)


# ---------------------------------------------------------------- chat


def test_chat_messages_are_their_parts_in_order(pipeline):
    pipe = pipeline(InterleavedPipeline)
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "what "}, {"type": "image", "image": PICTURE}]},
        {"role": "assistant", "content": "a seven"},
    ]
    read = PartReader(lambda text: [text], lambda picture: [picture])
    parts = spans_of(messages, pipe.text_tokenizer, read)
    assert parts[0] == "what " and parts[1] is PICTURE and parts[2:] == ["a seven"]
    options = {"max_new_tokens": 6, "max_images": 0}
    assert pipe(messages, **options).documents == pipe(["what ", PICTURE, "a seven"], **options).documents


def test_a_chat_template_wraps_each_message_in_special_tokens():
    """What a user writes stays text, even where it spells a special token or a mark."""
    template = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }} {% endfor %}{{ to }}<|model|>"
    specials = {"<|user|>": 300, "<|model|>": 301}
    plain = TextTokenizer.train(["a"], 256)
    tokenizer = TextTokenizer(plain._tokenizer, specials=specials).with_chat_template(template)
    content = [
        {"type": "text", "text": "<|model|> a"},
        {"type": "image", "path": "a.png"},
        {"type": "text", "text": "?"},
    ]
    read = PartReader(lambda text: [text], lambda picture: [picture], to="image")
    first, picture, last = spans_of([{"role": "user", "content": content}], tokenizer, read)
    assert picture == "a.png"
    assert first.values.tolist() == [300, *plain.encode("<|model|> a").values.tolist()]
    assert last.values.tolist() == [*plain.encode("? image").values.tolist(), 301]


def test_a_chat_template_is_saved_with_its_special_tokens(tmp_path):
    plain = TextTokenizer.train(["a"], 256)
    made = TextTokenizer(plain._tokenizer, specials={"<|user|>": 300}).with_chat_template("<|user|>")
    made.save_pretrained(tmp_path)
    again = TextTokenizer.from_pretrained(tmp_path)
    assert again.chat_template == "<|user|>" and again.specials == {"<|user|>": 300}
    assert again.encode_template("<|user|>", {}).values.tolist() == [300]


def test_many_documents_are_continued_together(pipeline):
    pipe = pipeline(InterleavedPipeline)
    options = {"max_new_tokens": 6, "max_images": 0}
    both = pipe([["a seven"], ["a nine ", PICTURE]], **options).documents
    assert both == [pipe(["a seven"], **options).documents[0], pipe(["a nine ", PICTURE], **options).documents[0]]


# ---------------------------------------------------------------- limits and orders


def test_no_more_pictures_than_allowed(pipeline):
    pipe = leaning_to(pipeline(InterleavedPipeline), a_picture)
    options = {"max_new_tokens": 12, "num_inference_steps": 1, "guidance_scale": 2.0}
    for most in (0, 2):
        (document,) = pipe(["a"], max_images=most, **options).documents
        assert [isinstance(segment, str) for segment in document][: most + 1] == [False] * most + [True]
        assert sum(not isinstance(segment, str) for segment in document) == most


ORDERS = [["image"], ["text", "image", "text"], ["image", "image", "text"], ["text", "image"]]


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
@pytest.mark.parametrize("leaning", [lambda v: v.document_end, a_picture, lambda v: 97], ids=["end", "image", "text"])
def test_spans_come_in_the_order_that_was_asked_for(pipeline, order, leaning):
    """Also where the model would rather end, or has used up its text."""
    pipe = leaning_to(pipeline(InterleavedPipeline), leaning)
    options = {"max_new_tokens": 5, "num_inference_steps": 1, "guidance_scale": 2.0, "num_samples": 2}
    for document in pipe(["a"], modality_order=order, **options).documents:
        kinds = ["text" if isinstance(segment, str) else "image" for segment in document]
        # With its text used up by then, the last text may stay empty.
        assert kinds == order or (order[-1] == "text" and kinds == order[:-1])


def test_the_second_discrete_picture_is_guided_like_the_first(pipeline):
    """The branch without the text forgets each picture, so that equal documents get equal pictures."""
    pipe = pipeline(InterleavedPipeline, "VQImageTokenizer", context=400)
    options = {"max_new_tokens": 5, "guidance_scale": 3.0, "output_type": "latent"}
    (both,) = pipe(["a seven"], modality_order=["image", "image"], **options).documents
    assert torch.equal(_after(pipe, both[0]), both[1])


def _after(pipe, first):
    """The picture that follows a text and a given discrete picture, greedily, in a stream of its own."""
    grid = pipe.image_tokenizer.grid
    document = [pipe.text_tokenizer.encode("a seven"), Span("image", first, grid)]
    drawing = Drawing(guidance=Guidance(3.0), grids={"image": grid})
    with torch.inference_mode():
        stream = Stream(pipe.model, [document, []], room=120, opens=["image", "image"])
        (spans,) = Writer(stream, 1, TextSampling(5), drawing, Rules(order=["image"], room=100)).run()
    return spans[0].values


def test_a_row_keeps_its_generator_while_another_kind_is_drawn():
    """Of two continuous modalities one is drawn at a time; rows that wait for the other are not advanced."""
    text = Modality("text", vocab_size=50)
    kinds = [Modality(n, channels=4, bidirectional=True, objective="flow") for n in ("image", "depth")]
    net = model([text, *kinds])
    drawing = Drawing(net.objectives["image"].scheduler(), 2, grids={"image": (2, 2), "depth": (1, 3)})

    def write(opens, seeds):
        drawing.generators = [generator(seed) for seed in seeds]
        with torch.inference_mode():
            stream = Stream(net, [[]] * len(opens), room=12, opens=opens)
            writer = Writer(stream, len(opens), TextSampling(1), drawing, Rules())
            writer.run()
        return [row.spans[0].values for row in writer.rows], [g.get_state() for g in drawing.generators]

    both, states = write(["image", "depth"], [1, 2])
    for number, name in enumerate(["image", "depth"]):
        (alone,), (state,) = write([name], [number + 1])
        torch.testing.assert_close(alone, both[number], atol=1e-5, rtol=1e-4)
        assert torch.equal(state, states[number])


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ({"prompt": 7}, "prompt must be a text, a list of parts or messages, got int"),
        ({"prompt": [{"role": "user"}]}, "message 0 needs a role and a content, got role"),
        ({"prompt": [{"role": "usr", "content": "a"}]}, "message 0: role 'usr' is not known; did you mean 'user'"),
        (
            {"prompt": [{"role": "user", "content": [{"type": "video"}]}]},
            "message 0: a part's type 'video' is not known",
        ),
        ({"prompt": [{"role": "user", "content": [{"type": "text"}]}]}, "type 'text' needs the field 'text'"),
        ({"max_images": -1}, "max_images must be a whole number"),
        ({"modality_order": "image"}, "modality_order must be a list of text, image"),
        ({"modality_order": ["text", "video"]}, "modality_order: 'video' cannot be written"),
        ({"modality_order": ["text", "text"]}, "modality_order: text after text is one span"),
        ({"modality_order": ["image"] * 20}, "exceed the 128"),
        ({"logits_processor": 3}, "logits_processor must be a list of logits processors"),
        ({"prompt": "a\ud800b"}, r"lone surrogate U\+D800 at character 1"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)
def test_bad_requests_are_refused_before_any_work(idle, arguments, complaint):
    with pytest.raises(InputError, match=complaint) as error:
        idle(InterleavedPipeline)(**{"prompt": "a", "max_new_tokens": 5} | arguments)
    assert "\n" not in str(error.value)


def test_a_prompt_that_spells_special_tokens_is_that_text(pipeline):
    pipe = pipeline(TextGenerationPipeline)
    spelled = "<document> <image> </image> <|endoftext|> </s>"
    (span,) = pipe.text_tokenizer.encode_batch([spelled])
    assert int(span.values.max()) < pipe.model.modalities[0].vocab_size
    assert pipe(spelled, max_new_tokens=2, return_full_text=True).texts[0].startswith(spelled)
    with pytest.raises(InputError, match="exceed the 128"):
        pipe("x" * 100_000)
