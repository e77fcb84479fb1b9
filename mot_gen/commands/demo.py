"""`mot-gen demo CHECKPOINT`: a page in the browser with the directions that the checkpoint has; register, page.

The page is Gradio's (the extra `demo`), served from this machine alone: nothing is fetched from elsewhere, nothing is
reported. One tab a direction, made from what `directions` says of it; pictures are shown while they are drawn.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from queue import Queue
from threading import Thread
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from mot_gen.commands.demo_scenes import language_option, scene_options
from mot_gen.commands.options import add_dtype
from mot_gen.errors import InputError
from mot_gen.pipelines.directions import INPUTS, OPTIONS, Direction

if TYPE_CHECKING:
    from mot_gen.pipelines.loaded import Loaded

# What the sliders start from where the checkpoint recommends nothing, and their ranges.
SLIDERS = {
    "num_inference_steps": (1, 100, 1, 20),
    "guidance_scale": (0.0, 10.0, 0.1, 3.0),
    "image_guidance_scale": (0.0, 5.0, 0.1, 1.0),
    "strength": (0.0, 1.0, 0.05, 0.0),
    "max_new_tokens": (1, 256, 1, 64),
    "temperature": (0.0, 2.0, 0.05, 0.0),
    "top_p": (0.05, 1.0, 0.05, 1.0),
    "samples": (1, 16, 1, 4),
}
TITLES = {"prompt": "text", "image": "picture", "mask": "mask", "audio": "recording", "any": "text and pictures"}
TITLES |= {"speech": "speech", "text": "text", "vector": "numbers"}
SIZE = ("height", "width")  # chosen together
HEIGHT = 256  # pixels in which a picture is shown, however small it is
QUEUE = 16  # requests that may wait; those beyond are told that it is full
LAUNCH = {"share": False, "inbrowser": False, "ssr_mode": False, "footer_links": []}


def register(commands) -> None:
    """Add `demo` to the commands of mot-gen."""
    command = commands.add_parser("demo", help="a page in the browser to try a checkpoint (needs the extra demo)")
    command.add_argument("checkpoint", metavar="CHECKPOINT", help="a run's folder, its model/, or a shipped name")
    command.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine alone")
    command.add_argument("--port", type=int, default=7860, metavar="N", help="default: 7860")
    add_dtype(command)
    command.set_defaults(func=_demo)


def _demo(arguments) -> int:
    from mot_gen.checkpoints import find

    folder = find(arguments.checkpoint)
    _gradio()  # its absence is said before the seconds that loading takes

    from mot_gen.pipelines.loaded import Loaded

    built = page(Loaded(folder, arguments.dtype), str(arguments.checkpoint))
    try:
        options = LAUNCH | {"app_kwargs": only_for(arguments.host)}
        built.queue(max_size=QUEUE).launch(server_name=arguments.host, server_port=arguments.port, **options)
    except (OSError, ValueError) as error:  # the latter where a proxy stands before this machine's own address
        raise InputError(f"--host {arguments.host} --port {arguments.port}: cannot be served: {error}") from error
    return 0


def only_for(host: str) -> dict:
    """Arguments of the server that let it answer only requests which name this host, so that a page of another site
    cannot reach the demo through a name that it points at this machine. An address of all networks, which somebody
    chose to serve, answers to every name."""
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    everywhere = host in ("0.0.0.0", "::", "")
    allowed = ["*"] if everywhere else sorted({host, "localhost", "127.0.0.1"})
    return {"middleware": [Middleware(TrustedHostMiddleware, allowed_hosts=allowed, www_redirect=False)]}


def _gradio():
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio
    except ImportError as error:
        raise InputError(f"the demo needs Gradio ({error}); install it with: pip install 'mot-gen[demo]'") from error
    return gradio


def page(loaded: Loaded, title: str):
    """The page over a loaded checkpoint: gradio.Blocks, not yet served."""
    gradio = _gradio()
    with gradio.Blocks(title=f"mot_gen: {title}", analytics_enabled=False) as blocks:
        gradio.Markdown(f"# {title}\nEverything on this page is made by this checkpoint, on this machine.")
        for direction in loaded.directions:
            with gradio.Tab(_title(direction)):
                _tab(gradio, loaded, direction)
    return blocks


def _title(direction: Direction) -> str:
    given = " + ".join(TITLES[name] for name in direction.needs) or "anything"
    return f"{given} → {TITLES[direction.to]}"


def _tab(gradio, loaded: Loaded, direction: Direction) -> None:
    """What is on the tab of a direction: inputs, options and a button on the left, results on the right."""
    kinds = (*direction.needs, *direction.takes)
    languages = loaded.base.languages
    with gradio.Row():
        with gradio.Column():
            inputs = {kind: _input(gradio, kind, kind in direction.takes) for kind in kinds}
            if languages.names and direction.to == "image" and "prompt" in direction.needs:
                scene_options(gradio, languages, inputs["prompt"])
            options = {}
            if languages.names and "language" in direction.options:
                options["language"] = language_option(gradio, languages)
            with gradio.Accordion("Settings", open=False):
                options |= _settings(gradio, loaded, direction, chosen=options)
            button = gradio.Button("Generate", variant="primary")
        with gradio.Column():
            outputs = _outputs(gradio, direction)

    def generate(*values):
        given = dict(zip((*kinds, *options), values))
        prompt = given.get("prompt")
        if direction.to == "image" and prompt:
            unknown = languages.untaught([prompt])
            if unknown:
                gradio.Warning(unknown)
        try:
            yield from _generate(loaded, direction, given)
        except InputError as error:
            raise gradio.Error(str(error), duration=None) from error

    button.click(
        generate,
        [*inputs.values(), *options.values()],
        outputs,
        api_name=f"{'_'.join(direction.needs) or 'anything'}_to_{direction.to}",
        concurrency_limit=1,
        concurrency_id="model",  # one model, so one at a time whichever tab asks
    )


def _settings(gradio, loaded: Loaded, direction: Direction, chosen: Collection[str]) -> dict:
    """Name -> what chooses it, for all options but those that are `chosen` elsewhere, and for samples and seed."""
    recommended = loaded.base.config.sampling or {}
    names = [name for name in direction.options if name not in (*SIZE, *chosen)]
    settings = {name: _option(gradio, name, recommended) for name in names}
    settings |= _sizes(gradio, loaded, direction)
    usual = {"samples": 1} if direction.to == "text" else {}  # a second greedy text is the first again
    settings["samples"] = _option(gradio, "samples", usual)
    settings["seed"] = gradio.Number(0, label="seed", precision=0, minimum=0)
    return settings


def _input(gradio, kind: str, optional: bool):
    label = TITLES[kind] + (" (optional)" if optional else "")
    if kind == "prompt":
        return gradio.Textbox(label=label, lines=2)
    shown = gradio.Audio if kind == "audio" else gradio.Image
    return shown(label=label, type="filepath")


def _option(gradio, name: str, recommended: Mapping):
    """A text box or a slider. recommended: what sliders start from, by their names."""
    label = name.replace("_", " ")
    if OPTIONS.get(name) is str:
        return gradio.Textbox(label=label)
    low, high, step, usual = SLIDERS[name]
    return gradio.Slider(low, high, recommended.get(name, usual), step=step, label=label)


def _sizes(gradio, loaded: Loaded, direction: Direction) -> dict:
    """The sizes that pictures may have, where there are several."""
    sizes = list(getattr(loaded.base.image_tokenizer, "grids", ()))
    if len(sizes) < 2 or not set(SIZE) <= set(direction.options):
        return {}
    choices = [f"{height} x {width}" for height, width in sizes]
    return {"size": gradio.Dropdown(choices, value=choices[0], label="height x width")}


def _outputs(gradio, direction: Direction) -> list:
    if direction.to == "speech":
        return [gradio.Audio(label="speech")]
    outputs: list = []
    if direction.to in ("text", "any", "vector"):
        outputs.append(gradio.Textbox(label="text", lines=4))
    if direction.to in ("image", "any"):
        gallery = {"show_label": False, "columns": 2, "object_fit": "contain", "format": "png"}
        outputs.append(gradio.Gallery(label="pictures", **gallery))
    return outputs


def _generate(loaded: Loaded, direction: Direction, given: Mapping) -> Iterator:
    """What the outputs show, again and again until it is finished."""
    inputs = {kind: given[kind] for kind in INPUTS if given.get(kind)}
    for kind in direction.needs:
        if kind not in inputs:
            raise InputError(f"give a {TITLES[kind]}")
    options = _options(direction, given)
    count = 1 if direction.to in ("any", "speech") else int(given["samples"])
    seeds = [int(given["seed"]) + number for number in range(count)]
    asked = (direction, [inputs] * count, seeds, options)
    if direction.to != "image":
        yield _shown(direction, loaded.run(*asked))
    elif loaded.base.model.modality["image"].discrete:
        yield _enlarge(loaded.run(*asked))
    else:
        yield from map(_enlarge, _draw(loaded, *asked))


def _options(direction: Direction, given: Mapping) -> dict[str, Any]:
    """The options of a direction that were set. A strength of 0 would change nothing, and counts as not set."""
    if given.get("size"):
        given = {**given, **dict(zip(SIZE, map(int, given["size"].split(" x "))))}
    unset = {"strength": 0}
    options = {name: given.get(name) for name in direction.options}
    return {name: value for name, value in options.items() if value not in ("", None, unset.get(name, ""))}


def _shown(direction: Direction, results: list):
    if direction.to == "text":
        return "\n\n".join(results)
    if direction.to == "vector":
        return "\n\n".join(json.dumps(result.tolist()) for result in results)
    if direction.to == "speech":
        samples, rate = results[0]
        return rate, samples
    texts = [segment for segment in results[0] if isinstance(segment, str)]
    return "\n".join(texts), _enlarge([segment for segment in results[0] if not isinstance(segment, str)])


def _enlarge(pictures: Sequence) -> list:
    """Large enough to be seen; each with a mark of its own, since Gradio names a file by its bytes and would write a
    picture that does not change from step to step anew while the browser reads it."""
    from PIL import Image

    enlarged = []
    for picture in pictures:
        factor = max(1, HEIGHT // picture.height)
        size = (picture.width * factor, picture.height * factor)
        shown = picture.resize(size, Image.Resampling.NEAREST)
        shown.info["shown"] = uuid4().hex
        enlarged.append(shown)
    return enlarged


def _draw(loaded: Loaded, direction: Direction, *asked) -> Iterator[list]:
    """The pictures as they are expected to become, after each step, and at last the pictures."""
    steps: Queue = Queue()

    def on_step(pipe, number, timestep, given):
        steps.put(pipe.decode_latents(given["pred_original_sample"]))
        return {}

    def draw():
        wanted: dict[str, Any] = {
            "callback_on_step_end": on_step,
            "callback_on_step_end_tensor_inputs": ("pred_original_sample",),
        }
        try:
            steps.put((loaded.run(direction, *asked, **wanted),))
        except Exception as error:  # raised again where it is waited for
            steps.put(error)

    Thread(target=draw, daemon=True).start()
    while isinstance(step := steps.get(), list):
        yield step
    if isinstance(step, Exception):
        raise step
    yield step[0]
