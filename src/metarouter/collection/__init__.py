"""Make labels: collect responses, have them judged, grade them.

Every paid answer goes through one ledger. Before a request is sent, the most it
can cost is written down and held against the budget; after it, what came back.
So a run that is killed at any moment goes on where it was: no answer is paid
twice, none is lost, and the budget holds over all runs together.
"""

from metarouter.collection.budget import Budget
from metarouter.collection.calls import Call, make_call
from metarouter.collection.ledger import Ledger, Spending
from metarouter.collection.runner import Progress, RunSummary, run_calls

__all__ = [
    "Budget",
    "Call",
    "Ledger",
    "Progress",
    "RunSummary",
    "Spending",
    "make_call",
    "run_calls",
]
