"""FieldLists, an extension of griffe: fields in docstrings, one a line in the code, become a list in the reference.

A field is a line that begins with "name: " or "name, name: "; lines after it that are no field go on with it.
"""

import re

import griffe

FIELD = re.compile(r"([a-z_]\w*(?:, [a-z_]\w*)*): (.*)")


class FieldLists(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        if obj.docstring is not None:
            obj.docstring.value = "\n\n".join(map(as_list, obj.docstring.value.split("\n\n")))


def as_list(paragraph: str) -> str:
    """A paragraph whose every field begins a line, as a markdown list; any other paragraph as it is."""
    lines = paragraph.split("\n")
    fields = [FIELD.fullmatch(line) for line in lines]
    if fields[0] is None or len(list(filter(None, fields))) < 2:
        return paragraph
    items = []
    for line, field in zip(lines, fields):
        items.append(f"- **{field[1]}**: {field[2]}" if field else f"    {line.strip()}")
    return "\n".join(items)
