"""Files as people bring them, for tests of reading: picture, write, tar, lines; and told, what reading says of them."""

import io
import json
import tarfile

from PIL import Image

MARK = b"\xef\xbb\xbf"


def picture(kind="PNG", size=(16, 16), color="red", mode="RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, color).save(buffer, kind)
    return buffer.getvalue()


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def tar(path, members, kind=tarfile.REGTYPE):
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def lines(path, *records):
    path.write_text("".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in records))
    return path


def told(samples) -> dict[str, int]:
    return {what: notice.count for what, notice in samples.notices.items()}
