"""Bias correction of preference labels."""
