"""A tiny sample of every format in its real schema: SAMPLES, name -> (folder -> (source, options of `convert`))."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
from PIL import Image


def picture(grey: int, form: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (12, 8), (grey, grey, grey)).save(file, form)
    return file.getvalue()


def pictures(folder: Path, *names: str) -> None:
    for grey, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(grey))


def write_lines(path: Path, *rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_table(path: Path, *rows: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    return path


def image_folder(folder: Path):
    pictures(folder, "cats/1.jpg", "cats/2.jpg")
    (folder / "cats/1.txt").write_text("a grey cat\na cat, asleep\n")
    (folder / "cats/2.caption").write_text("a black cat")
    return folder, {}


def image_folder_table(folder: Path):
    pictures(folder, "train/a.jpg", "train/b.jpg")
    with (folder / "train/metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file_name", "text"], ["a.jpg", "a, with a comma"], ["b.jpg", "b"]])
    return folder, {}


def class_folder(folder: Path):
    pictures(folder, "cat/1.jpg", "cat/more/2.jpg", "striped_dog/3.jpg")
    return folder, {}


CONVERSATION = {
    "id": "997bb945",
    "image": "part-000001/997bb945.jpg",
    "conversations": [
        {"from": "human", "value": "<image>\nWrite a prompt for this image."},
        {"from": "gpt", "value": "a beautiful painting of chernobyl by nekro."},
        {"from": "human", "value": "Shorter."},
        {"from": "gpt", "value": "chernobyl, painted"},
    ],
}
MANY_PICTURES = {
    "id": "spot_difference_1",
    "image": ["a.jpg", "b.jpg"],
    "conversations": [
        {"from": "human", "value": "First: <image>\nSecond: <image>\nWhat differs?"},
        {"from": "gpt", "value": "The hat."},
    ],
}
TEXT_ALONE = {"id": "sharegpt_7", "model": "", "image": "", "conversations": CONVERSATION["conversations"][2:]}


def llava(folder: Path):
    pictures(folder / "images", CONVERSATION["image"], "a.jpg", "b.jpg")
    (folder / "llava.json").write_text(json.dumps([CONVERSATION, MANY_PICTURES, TEXT_ALONE], indent=2))
    return folder / "llava.json", {"roots": [folder / "images"]}


def llava_parquet(folder: Path):
    """LLaVA-OneVision-Data as Hugging Face has it."""
    row = {**CONVERSATION, "image": {"bytes": picture(1), "path": None}, "data_source": "ai2d"}
    return write_table(folder / "train-00000-of-00001.parquet", row), {}


def bagel_pairs(folder: Path):
    captions = json.dumps({"caption_en": "a red fox", "caption_short": "fox"})
    return write_table(folder / "t2i" / "0.parquet", {"image": picture(1), "captions": captions}), {}


def bagel_edits(folder: Path):
    row = {
        "image_list": [picture(1), picture(2), picture(3)],
        "instruction_list": [["redden", "make it red"], ["zoom"]],
    }
    return write_table(folder / "editing" / "seedxedit_multi" / "0.parquet", row).parent, {}


def bagel_conversations(folder: Path):
    pictures(folder / "vlm/images", "a.jpg", "b.jpg")
    return write_lines(folder / "vlm/llava_ov_si.jsonl", MANY_PICTURES), {"roots": [folder / "vlm/images"]}


MARKER = "END_OF_DOCUMENT_TOKEN_TO_BE_REPLACED"
ADDRESS = "https://cdn.example.com/{}.jpg"


def obelics(folder: Path):
    """The page, and what img2dataset leaves: one of three pictures could not be had."""
    page = {
        "images": [ADDRESS.format("urus"), None, ADDRESS.format("gone"), ADDRESS.format("cabin"), None],
        "texts": [None, f"A car.\n\n{MARKER}\n\nIts cabin:", None, None, "Leather."],
        "metadata": json.dumps([{"src": ADDRESS.format("urus"), "alt_text": "car", "document_url": "u"}, None]),
        "general_metadata": json.dumps({"url": "https://example.com/forum/728", "warc_filename": "w.warc.gz"}),
    }
    done = {"status": "success", "error_message": None, "width": 12}
    table = [
        {"url": ADDRESS.format("urus"), "key": "000000000", **done},
        {"url": ADDRESS.format("gone"), "key": "000000001", **done, "status": "failed_to_download"},
        {"url": ADDRESS.format("cabin"), "key": "000000002", **done},
    ]
    pictures(folder / "images", "00000/000000000.jpg", "00000/000000002.jpg")
    write_table(folder / "images" / "00000.parquet", *table)
    return write_table(folder / "data" / "train-00000.parquet", page), {"roots": [folder / "images"]}


def mmc4(folder: Path):
    """The example of its README, zipped as it is downloaded; the second picture is gone."""
    found = {"face_detections": None, "matched_sim": 0.27, "raw_url": "http://www.hfitinfo.com/90.jpg"}
    document = {
        "image_info": [
            {"image_name": "b9040a0dbb22.jpg", "matched_text_index": 2, **found},
            {"image_name": "db1c21bc8474.jpg", "matched_text_index": 1, **found},
        ],
        "similarity_matrix": [[0.24, 0.31, 0.27], [0.22, 0.32, 0.26]],
        "text_list": ["When you lock the door.", "Press the switch.", "When you unlock."],
        "url": "http://www.hfitinfo.com/hofi-48.html",
        "could_have_url_duplicate": 0,
    }
    pictures(folder / "images", "b9040a0dbb22.jpg")
    with zipfile.ZipFile(folder / "docs_no_face_shard_0_v3.jsonl.zip", "w") as archive:
        archive.writestr("docs_no_face_shard_0_v3.jsonl", json.dumps(document) + "\n")
    return folder / "docs_no_face_shard_0_v3.jsonl.zip", {"roots": [folder / "images"]}


def show_o_pairs(folder: Path):
    pictures(folder, "images/a.jpg")
    return write_lines(folder / "openimages_data.jsonl", {"path": "images/a.jpg", "prompt": "a cat"}), {}


def show_o_stories(folder: Path):
    pictures(folder / "train", "1.jpg", "2.jpg")
    (folder / "vst.json").write_text(json.dumps([{"images": ["1", "2.jpg"], "captions": ["One day", "it rained"]}]))
    return folder / "vst.json", {"roots": [folder / "train"]}


def omnigen2(folder: Path):
    pictures(folder, "edit/in.jpg", "edit/out.jpg", "t2i/0.jpg")
    edit = {
        "task_type": "edit",
        "instruction": "add a hat to the person",
        "input_images": [str(folder / "edit/in.jpg")],
        "output_image": str(folder / "edit/out.jpg"),
    }
    drawn = {"task_type": "t2i", "instruction": "A big tree", "output_image": str(folder / "t2i/0.jpg")}
    write_lines(folder / "edit/jsonls/0.jsonl", edit)
    write_lines(folder / "t2i/jsonls/0.jsonl", drawn)
    return folder, {}


SAMPLES = {
    "image-folder": [image_folder, image_folder_table],
    "class-folder": [class_folder],
    "llava": [llava, llava_parquet],
    "bagel": [bagel_pairs, bagel_edits, bagel_conversations],
    "obelics": [obelics],
    "mmc4": [mmc4],
    "show-o": [show_o_pairs, show_o_stories],
    "omnigen2": [omnigen2],
}
