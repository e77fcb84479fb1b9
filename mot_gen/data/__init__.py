"""Samples on their way to a model: records, mixtures, tokenised corpora, and the loader that packs them into rows."""
