"""Metrics of speech: spectral distance, predicted opinion scores, and what a recogniser hears."""
