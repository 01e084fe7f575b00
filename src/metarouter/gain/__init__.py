"""Gain models: features to quality gain with uncertainty."""
