"""Data that a recipe names by `data.source`: one module a set, each with `load(data) -> Splits`."""
