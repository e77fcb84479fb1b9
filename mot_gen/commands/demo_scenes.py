"""The part of the demo's page that writes prompts from what a checkpoint was taught: scene_options, language_option."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mot_gen.errors import InputError
from mot_gen.pipelines.captions.phrase_slots import PhraseSlots
from mot_gen.pipelines.captions.phrase_tree import BLANK

if TYPE_CHECKING:
    from mot_gen.pipelines.captions.languages import Languages

NOTHING = "–"


def language_option(gradio, languages: Languages):
    """A menu of the languages that captions may be in, of those that the checkpoint lists."""
    from mot_gen.pipelines.captions.languages import ANY

    return gradio.Dropdown([*languages.names, ANY], value=languages.names[0], label="language")


def scene_options(gradio, languages: Languages, prompt) -> None:
    """A tab for each language: names and what can be said of them. What is chosen is written into `prompt`."""
    gradio.Markdown("Put a prompt together from what this checkpoint was taught, or write one:")
    for language in languages.names:
        with gradio.Tab(language):
            _language(gradio, languages.names_in(language), PhraseSlots(languages.phrases_in(language)), prompt)


def _language(gradio, names: list[str], slots: PhraseSlots, prompt) -> None:
    relations = {_without_blanks(piece): piece for piece in slots.relations}
    names = sorted(names)
    chosen = [gradio.Dropdown(names, value=None, label="name", filterable=True)]
    if relations:
        chosen.append(gradio.Radio([NOTHING, *relations], value=NOTHING, show_label=False))
        chosen.append(gradio.Dropdown(names, value=names[1 % len(names)], label="second name", filterable=True))
    attributes = [gradio.Radio([NOTHING, *slot], value=NOTHING, show_label=False) for slot in slots.attributes]

    note = gradio.Markdown()

    def compose(name: str | None, *others: str | None) -> tuple[Any, str]:
        """The prompt, and what there is to say. It stays as it was where no name is chosen yet, and where these were
        never taught together, which is said."""
        if not name:
            return gradio.skip(), ""
        said, rest = [name], list(others)
        pieces = []
        if relations:
            relation, second, *rest = rest
            if relation in relations and second:
                said.append(second)
                pieces.append(relations[relation])
        pieces += [piece for piece in rest if piece and piece != NOTHING]
        try:
            return slots.prompt(said, pieces), ""
        except InputError as error:  # said on the page: outside the queue, Gradio shows no message of an error
            return gradio.skip(), str(error)

    # What is chosen while an earlier choice is still being written waits for it; by default it would be passed over.
    how = {"api_name": False, "queue": False, "show_progress": "hidden", "trigger_mode": "always_last"}
    for each in (*chosen, *attributes):
        each.input(compose, [*chosen, *attributes], [prompt, note], **how)


def _without_blanks(piece: str) -> str:
    """What stands between two names."""
    return piece.replace(BLANK, "").strip()
