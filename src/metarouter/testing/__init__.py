"""Data with known truth, for tests and for users."""
