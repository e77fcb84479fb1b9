"""Mixtures of experts: pools of tokens, routing among experts, and what routers add to the loss."""
