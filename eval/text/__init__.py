"""Metrics of text: against references, of likelihood and of variety."""
