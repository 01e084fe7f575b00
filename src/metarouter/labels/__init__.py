"""Label files or rows to one :class:`GainTable`."""
