"""Metrics, intervals, experiments and the report."""
