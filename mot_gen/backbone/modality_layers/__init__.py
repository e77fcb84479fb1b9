"""Layers by which the tokens of a modality enter and leave the backbone: patches, embedded times, ids of their own."""
