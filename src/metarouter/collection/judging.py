"""``metarouter judge``: responses to votes or scores, each by a judge model.

A pair is judged in both orders, and only a pair with two readable verdicts
becomes a vote: one order alone would carry the judge's liking for a position.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from metarouter.collection.calls import Call, make_call
from metarouter.collection.ledger import Ledger
from metarouter.collection.money import to_usd
from metarouter.collection.position import OrderedPair
from metarouter.collection.prompts import RUBRIC, JudgePrompt
from metarouter.collection.responses import short_label
from metarouter.collection.rows import Response
from metarouter.collection.verdicts import Verdict, read_choice, read_score, shown
from metarouter.errors import DataError
from metarouter.providers.chat import ChatAnswer, ChatRequest
from metarouter.providers.endpoints import Target

__all__ = ["Judge", "JudgedPair", "JudgedScore", "judge_pairs", "judge_scores", "pairs_of"]

_P_FIRST: Mapping[Verdict, float] = {"A": 1.0, "tie": 0.5, "B": 0.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Judge:
    """A model that judges, and how it is asked.

    Parameters
    ----------
    target : Target
    prompt : JudgePrompt
    rubric : str, what a good response is; fills ``{rubric}``.
    max_tokens : int, at least 1, most tokens of a judgement.
    temperature : float, optional; None leaves it to the endpoint.
    readings : int, at least 1, answers asked for until one can be read.
    """

    target: Target
    prompt: JudgePrompt
    rubric: str = RUBRIC
    max_tokens: int = 1024
    temperature: float | None = 0.0
    readings: int = 3

    def call(self, label: str, values: Mapping[str, str], **reading: Any) -> Call:
        """The call that puts one question to the judge."""
        request = ChatRequest(
            messages=self.prompt.messages({"rubric": self.rubric, **values}),
            max_tokens=self.max_tokens,
            temperature=self.temperature,
        )
        return make_call(
            label,
            self.target,
            request,
            reminder=self.prompt.reminder,
            readings=self.readings,
            **reading,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedPair:
    """Two responses to a query, and the calls for their two orders.

    Equal responses make one request of the two orders. Whatever the judge says to
    it, the vote is a tie, so it is not asked.
    """

    first: Response
    second: Response
    forward: Call
    backward: Call

    @property
    def is_equal(self) -> bool:
        """Whether both orders show the judge the same."""
        return self.forward.key == self.backward.key

    def calls(self) -> tuple[Call, ...]:
        """First response first, then second response first; none for equal responses."""
        return () if self.is_equal else (self.forward, self.backward)

    def verdicts(self, answers: Answers) -> tuple[Verdict | None, Verdict | None]:
        """What the judge said in each order, by position; None where it cannot be read."""
        if self.is_equal:
            return "tie", "tie"
        forward, backward = (
            None if call.key not in answers else read_choice(answers[call.key][0])
            for call in self.calls()
        )
        return forward, backward

    def row(self, answers: Answers) -> dict[str, Any] | None:
        """The vote; None unless both orders can be read."""
        forward, backward = self.verdicts(answers)
        if forward is None or backward is None:
            return None
        p_first = (_P_FIRST[forward] + 1.0 - _P_FIRST[backward]) / 2.0
        return {
            **self.first.query.kept,
            "model_a": self.first.model,
            "model_b": self.second.model,
            "p_a": p_first,
            "judge": self.forward.target.name,
            "verdicts": [forward, backward],
            **self.first.counted("_a"),
            **self.second.counted("_b"),
            "cost_usd": to_usd(sum(answers[call.key][1] for call in self.calls())),
        }

    def order(self, answers: Answers) -> OrderedPair | None:
        """The two verdicts for the position report; None unless both were given."""
        forward, backward = self.verdicts(answers)
        if self.is_equal or forward is None or backward is None:
            return None
        return OrderedPair(cluster=self.first.query.identity, forward=forward, backward=backward)


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedScore:
    """A response, and the call for its score between `low` and `high`."""

    response: Response
    call: Call
    low: int
    high: int

    def calls(self) -> tuple[Call]:
        """The one call."""
        return (self.call,)

    def row(self, answers: Answers) -> dict[str, Any] | None:
        """The score on [0, 1]; None when it cannot be read."""
        if self.call.key not in answers:
            return None
        answer, charged = answers[self.call.key]
        score = read_score(answer, self.low, self.high)
        if score is None:
            return None
        return {
            **self.response.query.kept,
            "model": self.response.model,
            "score": (score - self.low) / (self.high - self.low),
            "judge": self.call.target.name,
            "raw_score": score,
            **self.response.counted(),
            "cost_usd": to_usd(charged),
        }


Answers = Mapping[str, tuple[ChatAnswer, int]]


def judge_pairs(pairs: Sequence[tuple[Response, Response]], judge: Judge) -> list[JudgedPair]:
    """Both orders of each pair as calls."""
    return [
        JudgedPair(
            first=first,
            second=second,
            forward=_pair_call(judge, first, second),
            backward=_pair_call(judge, second, first),
        )
        for first, second in pairs
    ]


def judge_scores(
    responses: Sequence[Response], judge: Judge, *, low: int, high: int
) -> list[JudgedScore]:
    """One call for each response."""

    def is_readable(answer: ChatAnswer) -> bool:
        return read_score(answer, low, high) is not None

    return [
        JudgedScore(
            response=response,
            call=judge.call(
                f"{short_label(response.query)} · {response.model}",
                {
                    "query": response.query.text,
                    "response": response.text,
                    "low": str(low),
                    "high": str(high),
                },
                is_readable=is_readable,
            ),
            low=low,
            high=high,
        )
        for response in responses
    ]


def pairs_of(
    responses: Sequence[Response], models: tuple[str, str] | None = None
) -> list[tuple[Response, Response]]:
    """Every two responses to the same query, or those of two `models` only.

    Raises
    ------
    DataError
        When there is no pair.
    """
    by_query: dict[str, list[Response]] = {}
    for response in responses:
        if models is None or response.model in models:
            by_query.setdefault(response.query.identity, []).append(response)
    pairs = [pair for group in by_query.values() for pair in combinations(group, 2)]
    if not pairs:
        found = ", ".join(sorted({response.model for response in responses}))
        raise DataError(
            "no query has responses of two models that could be compared; models in the file: "
            f"{found}"
        )
    return pairs


def judged_rows(
    judged: Sequence[JudgedPair] | Sequence[JudgedScore], ledger: Ledger
) -> Iterator[dict[str, Any]]:
    """Rows of the label file, in the order of `judged`; what cannot be read is left out.

    Where a run ended early, ties of equal responses end with the votes before
    them: a file that is cut short holds no more of them than a whole one.
    """
    answers = ledger.answers()
    is_reached = True
    for item in judged:
        if item.calls():
            is_reached = all(call.key in answers for call in item.calls())
        row = item.row(answers) if is_reached else None
        if row is not None:
            yield row


def unread_answers(items: Iterable[Sequence[Call]], answers: Answers) -> list[str]:
    """For each item that was answered but cannot be read, what the judge said, in short."""
    told: list[str] = []
    for calls in items:
        given = [(call, answers[call.key][0]) for call in calls if call.key in answers]
        unread = [answer for call, answer in given if not call.is_readable(answer)]
        if unread and len(given) == len(calls):
            told.append(shown(unread[0]))
    return told


def _pair_call(judge: Judge, first: Response, second: Response) -> Call:
    return judge.call(
        f"{short_label(first.query)} · {first.model} | {second.model}",
        {"query": first.query.text, "response_a": first.text, "response_b": second.text},
        is_readable=_has_choice,
    )


def _has_choice(answer: ChatAnswer) -> bool:
    return read_choice(answer) is not None
