"""GenEval, DPG-Bench and T2I-CompBench from prompts to a table, and the models that look at pictures for them."""

import json
import sys

import numpy as np
import pytest
import torch
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    YolosConfig,
    YolosForObjectDetection,
    YolosImageProcessor,
)

from mot_gen.commands.main import main
from mot_gen.errors import InputError
from mot_gen.eval import evaluate_image_text
from mot_gen.eval.images.compbench import box_overlap, noun_phrases, parsed_place, place_score
from mot_gen.eval.images.detectors import ColorNamer, load_detector
from mot_gen.eval.images.suites import prompts_of, run_compbench, run_dpg, run_geneval
from mot_gen.eval.images.vqa import QUESTION, VqaModel

GENEVAL = [
    {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a photo of a dog"},
    {"tag": "colors", "include": [{"class": "dog", "count": 1, "color": "red"}], "prompt": "a photo of a red dog"},
]
DPG = """\
item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,question_natural_language
a,a red dog,,1,0,entity,whole,entity - whole (dog),Is there a dog?
a,a red dog,,2,1,attribute,color,"attribute - color (dog, red)",Is the dog red?
b,a blue cat,,1,0,entity,whole,entity - whole (cat),Is there a cat?
"""


def plain(*levels):
    """Pictures of one grey level each; the level says what is on them."""
    return torch.stack([torch.full((3, 8, 8), level, dtype=torch.uint8) for level in levels])


def dog_where_bright(image):
    """A detector: a dog where the picture is bright, red where it is very bright."""
    if image[0, 0, 0] < 100:
        return []
    color = "red" if image[0, 0, 0] > 200 else "blue"
    return [{"class": "dog", "score": 0.95, "box": [0, 0, 8, 8], "color": color}]


def yes_where_bright(image, question, words):
    """A model that answers yes with a probability that is the picture's level."""
    yes = image[0, 0, 0].item() / 255
    return [{"yes": yes, "no": 1 - yes, "Yes": yes}[word] for word in words]


@pytest.fixture
def files(tmp_path):
    (tmp_path / "g.jsonl").write_text("".join(json.dumps(row) + "\n" for row in GENEVAL))
    (tmp_path / "dpg.csv").write_text(DPG)
    (tmp_path / "color.txt").write_text("a red dog and a blue cat\na green bench\n")
    return tmp_path


def test_geneval_by_a_detector_and_by_a_file(files):
    pictures = plain(150, 50, 150, 250)  # two a prompt
    found = run_geneval(files / "g.jsonl", pictures, dog_where_bright)
    assert {name: one.value for name, one in found.items()} == {
        "geneval": 0.5,
        "geneval_single_object": 0.5,
        "geneval_colors": 0.5,
    }
    assert "detector:dog_where_bright" in found["geneval"].signature
    lines = [json.dumps({"detections": dog_where_bright(image)}) + "\n" for image in pictures]
    (files / "seen.jsonl").write_text("".join(lines))
    again = run_geneval(files / "g.jsonl", detections=files / "seen.jsonl")
    assert again["geneval"].value == 0.5 and "detector:seen.jsonl" in again["geneval"].signature
    with pytest.raises(InputError, match="3 pictures for 2 prompts"):
        run_geneval(files / "g.jsonl", plain(1, 2, 3), dog_where_bright)


def test_dpg_counts_children_of_a_no_as_no(files):
    def sees_red_but_no_dog(image, question, words):
        yes = float(question in ("Is the dog red?", "Is there a cat?"))
        return [yes, 1 - yes]

    found = run_dpg(files / "dpg.csv", plain(1, 2), sees_red_but_no_dog)
    assert found["dpg"].value == 50  # 0 of the first prompt, as its dog is missing; all of the second
    assert found["dpg_attribute"].value == 100 and found["dpg_entity"].value == 50
    assert prompts_of("dpg", files / "dpg.csv") == ["a red dog", "a blue cat"]


def test_dpg_files_that_are_wrong_are_named(files):
    (files / "bad.csv").write_text(DPG.replace(",2,1,", ",2,7,"))
    with pytest.raises(InputError, match="item a: question 2 depends on 7, which is absent"):
        prompts_of("dpg", files / "bad.csv")
    (files / "bad.csv").write_text(DPG.replace(",2,1,", ",two,1,"))
    with pytest.raises(InputError, match=r"bad.csv:3: proposition_id"):
        prompts_of("dpg", files / "bad.csv")


def test_compbench_multiplies_the_phrases(files):
    found = run_compbench("color", files / "color.txt", plain(51, 204), yes_where_bright)
    assert found["compbench_color"].value == pytest.approx((0.2 * 0.2 + 0.8) / 2)
    assert noun_phrases("a green bench and a blue bowl.") == ["a green bench", "a blue bowl"]


@pytest.mark.parametrize(
    ("relation", "two", "expected"),
    [
        ("on the left of", [40, 0, 50, 10], 1.0),
        ("on the right of", [40, 0, 50, 10], 0.0),
        ("on the left of", [0, 40, 10, 50], 0.0),
        ("on the top of", [0, 40, 10, 50], 1.0),
        ("on the left of", [5, 0, 15, 10], 0.1 / (50 / 150)),
        ("near", [0, 100, 10, 110], 1.0),
        ("next to", [300, 200, 310, 210], 150 / 300),
    ],
)
def test_compbench_judges_places_by_boxes(relation, two, expected):
    assert place_score(relation, [0, 0, 10, 10], two) == pytest.approx(expected)


def test_compbench_reads_places_from_prompts(files):
    assert parsed_place("a girl on the top of a frog") == ("girl", "on the top of", "frog")
    assert box_overlap([0, 0, 2, 2], [1, 1, 3, 3]) == pytest.approx(1 / 7)
    (files / "spatial.txt").write_text("a dog near a dog\n")
    found = run_compbench("spatial", files / "spatial.txt", plain(150), dog_where_bright)
    assert found["compbench_spatial"].value == 1
    with pytest.raises(InputError, match="names no place"):
        parsed_place("a dog and a cat")


def test_the_commands_run_from_prompts_to_a_table(files, capsys, monkeypatch):
    monkeypatch.syspath_prepend(files)
    (files / "judges.py").write_text(
        "def detect(image):\n    return [{'class': 'dog', 'score': 0.9, 'box': [0, 0, 8, 8], 'color': 'red'}]\n"
        "def answer(image, question, words):\n    return [1.0 if word == 'yes' else 0.0 for word in words]\n"
    )
    sys.modules.pop("judges", None)
    np.save(files / "p.npy", plain(1, 2).numpy())
    out, pictures = files / "r.json", str(files / "p.npy")
    base = ["eval", "suite"]
    assert (
        main([*base, "geneval", str(files / "g.jsonl"), pictures, "--detector", "judges:detect", "--json", str(out)])
        == 0
    )
    assert json.loads(out.read_text())["metrics"]["geneval"]["value"] == 1
    assert main([*base, "dpg", str(files / "dpg.csv"), pictures, "--vqa", "judges:answer", "--json", str(out)]) == 0
    assert json.loads(out.read_text())["metrics"]["dpg"]["value"] == 100
    words = ["compbench", str(files / "color.txt"), pictures, "--category", "color", "--vqa", "judges:answer"]
    assert main([*base, *words, "--json", str(out)]) == 0
    assert json.loads(out.read_text())["metrics"]["compbench_color"]["value"] == 1
    assert main([*base, "dpg", str(files / "dpg.csv"), pictures]) == 2
    assert "needs --vqa" in capsys.readouterr().err
    assert main([*base, "dpg", str(files / "dpg.csv"), pictures, "--vqa", "judges:answer", "--colors", str(files)]) == 2
    assert main([*base, "geneval", str(files / "g.jsonl"), pictures, "--detections", str(files / "g.jsonl")]) == 2
    idle, both = capsys.readouterr().err.splitlines()[-2:]
    assert "--colors does nothing here; it is for geneval" in idle
    assert "--detections stand in the place of pictures; leave one of the two out" in both


def test_a_detector_from_a_folder_is_transformers(tmp_path):
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    labels = {"id2label": {0: "dog", 1: "cat"}, "label2id": {"dog": 0, "cat": 1}}
    config = YolosConfig(**size, **labels, image_size=[32, 32], patch_size=8, num_detection_tokens=5)
    model = YolosForObjectDetection(config).eval()
    model.save_pretrained(tmp_path)
    processor = YolosImageProcessor(size={"height": 32, "width": 32}, do_pad=False)
    processor.save_pretrained(tmp_path)
    image = torch.randint(0, 256, (3, 20, 40), dtype=torch.uint8)
    found = load_detector(str(tmp_path))(image)
    with torch.no_grad():
        output = model(**processor(images=image, return_tensors="pt", input_data_format="channels_first"))
    (expected,) = processor.post_process_object_detection(output, threshold=0.1, target_sizes=[(20, 40)])
    assert [one["score"] for one in found] == sorted(expected["scores"].tolist(), reverse=True)
    assert {one["class"] for one in found} <= {"dog", "cat"} and all(len(one["box"]) == 4 for one in found)


def test_colors_are_named_by_a_clip():
    class Clip:
        """Sees a picture's mean level of red, green and blue; reads the names of these colours."""

        def images(self, images):
            return images.double().mean((2, 3))

        def texts(self, texts):
            columns = [[float(name in text) + 1e-3 for name in ("red", "green", "blue")] for text in texts]
            return torch.tensor(columns, dtype=torch.float64), 0

    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    image[0, :, :4], image[2, :, 4:] = 200, 200
    boxes = [[0, 0, 4, 8], [4, 0, 8, 8], [20, 20, 30, 30]]
    found = ColorNamer(Clip())(image, [{"class": "ball", "score": 0.9, "box": box} for box in boxes])
    assert [one.get("color") for one in found] == ["red", "blue", None]


TEMPLATE = (
    "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% else %}"
    "{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
)


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    """A random LLaVA that reads letters, with its processor."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("llava")
    letters = sorted(set(QUESTION + "Yesno adogct"))
    backend = Tokenizer(
        models.WordLevel({letter: i for i, letter in enumerate([*letters, "<unk>"])}, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<unk>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    size = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = CLIPVisionConfig(image_size=16, patch_size=8, **size)
    text = LlamaConfig(vocab_size=len(tokenizer), **size)
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=len(tokenizer) - 1, vision_feature_layer=-1
    )
    LlavaForConditionalGeneration(config).eval().save_pretrained(folder)
    pictures = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    options = {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    LlavaProcessor(pictures, tokenizer, chat_template=TEMPLATE, **options).save_pretrained(folder)
    return folder


def test_vqa_score_is_the_probability_of_yes(llava):
    """By hand: every letter of the answer after the picture's places and the question."""
    model = VqaModel(llava)
    image = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8)
    asked = model.processor(images=image, text="<image>" + QUESTION.format("a dog"), return_tensors="pt")
    ids, probability = asked["input_ids"], 1.0
    for letter in "Yes":
        with torch.no_grad():
            output = model.model(input_ids=ids, pixel_values=asked["pixel_values"], attention_mask=torch.ones_like(ids))
        token = model.processor.tokenizer(letter, add_special_tokens=False)["input_ids"][0]
        probability *= output.logits[0, -1].double().softmax(-1)[token].item()
        ids = torch.cat([ids, torch.tensor([[token]])], 1)
    found = evaluate_image_text(image[None], ["a dog"], "vqa", vqa=str(llava))["vqa"]
    assert found.value == pytest.approx(probability, rel=1e-4) and "sha256:" in found.signature
    by_function = evaluate_image_text(plain(51), ["a dog"], "vqa", vqa=yes_where_bright)["vqa"]
    assert by_function.value == pytest.approx(0.2) and "extractor:yes_where_bright" in by_function.signature
