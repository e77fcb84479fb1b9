"""Texts that are known beforehand: the captions that a checkpoint lists, and answers that a caller allows.

`languages.Languages`: the captions that a checkpoint was taught, by language. `taught`: which parts of a prompt it was
never taught. `phrase_slots`: what can be chosen in its phrases. `phrase_tree`: the tree of tokens of all these texts.
`text_choices.Choices`: which of them the model finds likeliest.
"""
