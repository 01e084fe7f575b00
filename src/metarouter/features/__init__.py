"""Query text to features."""
