"""Label files or rows to one :class:`GainTable`, what is in it, and splits of it."""

from metarouter.labels.check import summarise_labels
from metarouter.labels.messages import render_messages
from metarouter.labels.read import read_gain_table
from metarouter.labels.report import BadRows, FileReport, ReadReport
from metarouter.labels.split import split_by_query, take_queries
from metarouter.labels.summary import (
    Agreement,
    LabelSummary,
    NameCount,
    SliceBias,
    SourceSummary,
    render_summary,
)
from metarouter.labels.table import GainTable, make_gain_table

__all__ = [
    "Agreement",
    "BadRows",
    "FileReport",
    "GainTable",
    "LabelSummary",
    "NameCount",
    "ReadReport",
    "SliceBias",
    "SourceSummary",
    "make_gain_table",
    "read_gain_table",
    "render_messages",
    "render_summary",
    "split_by_query",
    "summarise_labels",
    "take_queries",
]
