"""Costs, thresholds and the choice of a model."""
