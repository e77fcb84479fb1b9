"""Metrics of pictures: distances between sets, pairs of pictures, and how well pictures fit their texts."""
