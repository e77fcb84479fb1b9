"""The page of `mot-gen demo`: its tabs are the checkpoint's directions, it draws and writes, and asks nobody else."""

import json
import socket
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from chromium import CHROMIUM, Page
from PIL import Image
from tiny import model
from tiny_pipelines import build

from mot_gen.commands.demo import SIZE, SLIDERS, _enlarge, _generate, _title, page
from mot_gen.commands.main import main
from mot_gen.errors import InputError
from mot_gen.pipelines.captions.languages import Languages
from mot_gen.pipelines.directions import DIRECTIONS, OPTIONS
from mot_gen.pipelines.loaded import Loaded
from mot_gen.tokenizers.image_patch import PatchImageTokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from mot_gen.pipelines.base import MultimodalPipeline

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("demo") / "tiny"
    sampling = {"num_inference_steps": 3, "guidance_scale": 2.0, "max_new_tokens": 4}
    MultimodalPipeline(**build(), sampling=sampling).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def loaded(folder):
    return Loaded(folder)


def of_several_sizes(folder) -> Loaded:
    """An untrained model of pictures 4 high and 6 wide, and 6 high and 4 wide."""
    from mot_gen.pipelines.base import MultimodalPipeline

    image, parts = PatchImageTokenizer([[4, 6], [6, 4]], 2), build()
    parts |= {"model": model([parts["model"].modalities[0], image.modality], context=128), "image_tokenizer": image}
    MultimodalPipeline(**parts, sampling={"num_inference_steps": 2}).save_pretrained(folder)
    return Loaded(folder)


def direction(name):
    return next(each for each in DIRECTIONS if each.name == name)


def given(name, **values) -> dict:
    """A tab's values as it begins."""
    return dict.fromkeys(direction(name).options) | {"samples": 2, "seed": 3} | values


def test_a_picture_is_shown_at_each_step_and_is_the_command_s(loaded):
    name = "prompt -> image"
    shown = list(_generate(loaded, direction(name), given(name, prompt="seven", num_inference_steps=3)))
    assert len(shown) == 4 and all(len(pictures) == 2 for pictures in shown)
    assert shown[0][0].size == (384, 256) and shown[0][0].tobytes() != shown[2][0].tobytes()
    for number, picture in enumerate(shown[-1]):
        (alone,) = loaded.run(direction(name), [{"prompt": "seven"}], [3 + number], {"num_inference_steps": 3})
        assert picture.resize((6, 4), Image.Resampling.NEAREST).tobytes() == alone.tobytes()


def test_a_picture_that_stays_the_same_is_shown_as_a_file_of_its_own():
    """Gradio names files by their bytes, those of PIL's text chunks included."""
    first, again = (_enlarge([Image.new("L", (2, 2))])[0] for _ in range(2))
    assert first.tobytes() == again.tobytes() and first.info["shown"] != again.info["shown"]


def test_texts_and_what_is_missing_or_refused(loaded, tmp_path):
    Image.new("RGB", (6, 4), "red").save(tmp_path / "red.png")
    name = "image -> text"
    (text,) = _generate(loaded, direction(name), given(name, image=str(tmp_path / "red.png"), max_new_tokens=2))
    assert isinstance(text, str)
    with pytest.raises(InputError, match="give a picture"):
        list(_generate(loaded, direction(name), given(name, prompt="a")))
    with pytest.raises(InputError, match="guidance_scale"):
        list(_generate(loaded, direction("prompt -> image"), given("prompt -> image", prompt="a", guidance_scale=-1)))


def test_every_number_has_a_slider_and_every_direction_a_title():
    assert {name for name, kind in OPTIONS.items() if kind is not str} <= {*SLIDERS, *SIZE}
    assert len({_title(each) for each in DIRECTIONS}) == len(DIRECTIONS)


def test_without_gradio_it_says_what_to_install(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo", str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'mot-gen[demo]'" in line


def test_the_page_s_model_is_loaded_in_the_dtype_that_was_asked_for(folder, monkeypatch, capsys):
    def load(checkpoint, dtype):
        raise InputError(f"{Path(checkpoint).name} in {dtype}")

    monkeypatch.setattr("mot_gen.commands.demo._gradio", lambda: None)
    monkeypatch.setattr("mot_gen.pipelines.loaded.Loaded", load)
    assert main(["demo", str(folder), "--dtype", "fp16"]) == 2
    assert capsys.readouterr().err == "mot-gen: tiny in fp16\n"


@pytest.fixture
def opened(tmp_path):
    """loaded -> its page in a browser."""
    pytest.importorskip("gradio", reason="the extra demo is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    from mot_gen.commands.demo import LAUNCH

    @contextmanager
    def serve(loaded):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        blocks = page(loaded, "tiny")
        blocks.queue().launch(server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, quiet=True, **LAUNCH)
        try:
            with Page(f"http://127.0.0.1:{port}", tmp_path / "profile") as shown:
                yield shown
                assert {host for host in shown.hosts if not host.startswith("127.0.0.1")} == set()
        finally:
            blocks.close()

    return serve


DRAWN = "[...document.querySelectorAll('.grid-wrap img')].filter(image => image.naturalWidth)"


def test_the_page_draws_a_picture_in_a_browser(opened, loaded, tmp_path):
    with opened(loaded) as shown:
        shown.fill("textarea", "seven")
        tabs = shown.ask("[...document.querySelectorAll('[role=tab]')].map(tab => tab.innerText.trim())")
        assert set(tabs) >= {_title(each) for each in loaded.directions} and not any("speech" in t for t in tabs)
        shown.click("button", "Generate")
        source = shown.wait("document.querySelector('.grid-wrap img, .gallery-container img')?.src")
        assert source.startswith("http://127.0.0.1:")
        # Each picture arrives whole, whatever was shown before it.
        shown.wait(f"{DRAWN}.length == 4")
        Image.new("RGB", (6, 4), "red").save(tmp_path / "red.png")
        shown.click("[role=tab]", "picture → text")
        shown.upload("input[type=file]", tmp_path / "red.png")
        shown.wait("document.querySelector('img[alt=\"\"], .image-frame img')?.src")
        shown.click("button", "Generate")
        (wanted,) = loaded.run(direction("image -> text"), [{"image": str(tmp_path / "red.png")}], [0], {})
        assert wanted
        shown.wait(f"[...document.querySelectorAll('textarea')].some(field => field.value == {json.dumps(wanted)})")


def test_a_size_is_chosen_in_a_browser(opened, tmp_path):
    with opened(of_several_sizes(tmp_path / "sizes")) as shown:
        shown.fill("textarea", "seven")
        shown.click("button", "Generate")
        shapes = f"{DRAWN}.map(image => image.naturalWidth / image.naturalHeight)"
        shown.wait(f"{DRAWN}.length == 4")
        assert shown.ask(shapes) == [6 / 4] * 4
        shown.click(".label-wrap span", "Settings")
        shown.choose("height x width", "6 x 4")
        shown.click("button", "Generate")
        shown.wait(f"{shapes}.every(shape => shape < 1) && {DRAWN}.length == 4")
        assert shown.ask(shapes) == [pytest.approx(4 / 6, abs=0.01)] * 4


PROMPT = "[...document.querySelectorAll('textarea')].find(field => field.offsetParent).value"


def test_a_prompt_is_put_together_in_a_browser(opened, loaded, monkeypatch):
    taught = {
        "phrases": ["{}", "{}, on red", "{}, on blue", "{} left of {}", "{} left of {}, on red"],
        "names": ["fish", "owl", "red apple"],
    }
    german = {"phrases": ["{}", "{}, auf Rot"], "names": ["fisch", "eule"]}
    monkeypatch.setattr(loaded.base, "languages", Languages({"en": taught, "de": german}))
    with opened(loaded) as shown:
        shown.choose("name", "fish")
        shown.wait(f"{PROMPT} == 'fish'")
        shown.click("label", "on red")
        shown.wait(f"{PROMPT} == 'fish, on red'")
        shown.choose("second name", "red apple")
        shown.click("label", "left of")
        shown.wait(f"{PROMPT} == 'fish left of red apple, on red'")
        shown.click("label", "on blue")  # two names were never taught on blue
        shown.wait("document.body.innerText.includes('never taught')")
        assert shown.ask(PROMPT) == "fish left of red apple, on red"
        shown.click("[role=tab]", "de")
        shown.choose("name", "eule")
        shown.wait(f"{PROMPT} == 'eule'")


def test_what_was_never_taught_is_said_in_a_browser(opened, loaded, monkeypatch):
    monkeypatch.setattr(loaded.base, "languages", Languages({"en": {"phrases": ["{}"], "names": ["owl", "fish"]}}))
    with opened(loaded) as shown:
        shown.fill("textarea", "glass owl")
        shown.click("button", "Generate")
        shown.wait("document.body.innerText.includes('never taught to this checkpoint')")
        shown.wait(f"{DRAWN}.length == 4")


@pytest.mark.parametrize(
    ("served", "asked", "answered"),
    [
        ("127.0.0.1", "127.0.0.1:7860", True),
        ("127.0.0.1", "localhost:7860", True),
        ("127.0.0.1", "evil.example", False),
        ("box.lan", "box.lan:7860", True),
        ("box.lan", "evil.example", False),
        ("0.0.0.0", "anything.example", True),
    ],
)
def test_only_requests_that_name_the_host_are_answered(served, asked, answered):
    """A page elsewhere may point a name of its own at this machine; its requests carry that name."""
    pytest.importorskip("gradio", reason="the extra demo is not installed")
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    from mot_gen.commands.demo import only_for

    app = FastAPI(**only_for(served))
    app.get("/")(lambda: "here")
    assert TestClient(app).get("/", headers={"host": asked}).status_code == (200 if answered else 400)


def test_train_says_what_is_required_and_no_more(capsys):
    from mot_gen.commands.main import main

    assert main(["train"]) == 2
    assert "required: RECIPE;" in capsys.readouterr().err
