"""Causal estimators on arrays; knows nothing of language models."""
