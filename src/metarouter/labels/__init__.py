"""Label files or rows to one :class:`GainTable`."""

from metarouter.labels.messages import render_messages
from metarouter.labels.read import read_gain_table
from metarouter.labels.report import BadRows, FileReport, ReadReport
from metarouter.labels.table import GainTable, make_gain_table

__all__ = [
    "BadRows",
    "FileReport",
    "GainTable",
    "ReadReport",
    "make_gain_table",
    "read_gain_table",
    "render_messages",
]
