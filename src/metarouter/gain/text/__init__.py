"""Gain models that read the query's text itself: fine-tuned encoders and decoders.

Training needs the extra ``torch``. What comes out are a *stage*, which turns
texts into class probabilities and takes the place of the feature pipeline, and
a linear readout of those, which is an ordinary gain scorer.
"""

from metarouter.gain.text.rows import row_inputs, stage_of

__all__ = ["row_inputs", "stage_of"]
