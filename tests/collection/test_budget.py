"""Money: exact costs, bounds before sending, and a limit that holds."""

from __future__ import annotations

import asyncio
import random
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metarouter.collection.budget import Budget, BudgetReachedError
from metarouter.collection.money import (
    PICO,
    cost_of,
    prompt_token_bound,
    to_pico,
    to_usd,
    worst_cost,
)
from metarouter.errors import OptionError
from metarouter.providers import ChatRequest
from metarouter.records import ModelSpec

prices = st.floats(0, 1000, allow_nan=False)


@given(a=prices, b=prices, n=st.integers(0, 10**6), m=st.integers(0, 10**6))
def test_a_cost_is_never_below_the_exact_one_and_less_than_a_picodollar_a_token_above(
    a: float, b: float, n: int, m: int
) -> None:
    spec = ModelSpec(name="m", input_usd_per_mtok=a, output_usd_per_mtok=b)
    exact = (Fraction(a) * n + Fraction(b) * m) / 10**6 * PICO
    cost = cost_of(spec, n, m)
    assert cost is not None
    slack = Fraction(1, 10**6)  # a price is taken as it is written, not as its float
    assert exact - slack * (n + m) - 1 <= cost < exact + (1 + slack) * (n + m) + 1


def test_a_budget_is_taken_as_it_is_written() -> None:
    assert to_pico(0.1) == 10**11
    assert to_pico(5.0) == 5 * PICO
    assert to_usd(to_pico(0.3)) == 0.3


def test_a_model_without_price_has_no_cost() -> None:
    assert cost_of(ModelSpec(name="m", input_usd_per_mtok=1.0), 1, 1) is None


def test_the_bound_holds_for_a_real_tokenizer_with_any_text() -> None:
    """Tokens of the packaged tokenizer, whatever the script, are at most the bound."""
    import importlib.util

    from tokenizers import Tokenizer

    spec = importlib.util.find_spec("wordllama")
    assert spec is not None
    folder = (spec.submodule_search_locations or [""])[0]
    file = Path(folder) / "tokenizers" / "l2_supercat_tokenizer_config.json"
    tokenizer = Tokenizer.from_file(str(file))
    rng = random.Random(0)
    alphabets = ["abc ", "äöß", "漢字かな", "🙂👩‍👩‍👧", "\u0000\n\t", "ﷺ①½", "0123456789,."]
    for _ in range(300):
        alphabet = rng.choice(alphabets)
        text = "".join(rng.choice(alphabet) for _ in range(rng.randint(1, 60)))
        tokens = len(tokenizer.encode(text).ids)
        assert tokens <= prompt_token_bound([{"role": "user", "content": text}])


@given(texts=st.lists(st.text(max_size=40), min_size=1, max_size=4))
def test_the_bound_covers_every_byte_of_every_message(texts: list[str]) -> None:
    """One token a byte and some for each message, the worst that a byte-level tokenizer does."""
    messages = [{"role": "user", "content": text} for text in texts]
    worst = sum(len(text.encode("utf-8", "surrogatepass")) + 4 for text in texts)
    assert prompt_token_bound(messages) >= worst


def test_parts_whose_tokens_nobody_knows_are_refused() -> None:
    picture = {"type": "image_url", "image_url": {"url": "http://x"}}
    with pytest.raises(OptionError, match="not text"):
        prompt_token_bound([{"role": "user", "content": [picture]}])
    assert prompt_token_bound([{"role": "user", "content": [{"type": "text", "text": "a"}]}]) > 0


def test_the_worst_cost_is_that_of_the_bound_and_the_limit() -> None:
    spec = ModelSpec(name="m", input_usd_per_mtok=1.0, output_usd_per_mtok=10.0)
    request = ChatRequest(messages=({"role": "user", "content": "Hi"},), max_tokens=7)
    bound = prompt_token_bound(request.messages)
    assert worst_cost(spec, request) == (bound + 70) * 10**6


@given(
    amounts=st.lists(st.integers(1, 50), min_size=1, max_size=30),
    limit=st.integers(0, 400),
    spent=st.integers(0, 100),
    seed=st.integers(0, 1000),
)
def test_spent_and_held_never_pass_the_limit(
    amounts: list[int], limit: int, spent: int, seed: int
) -> None:
    """Any number of requests at once, each charged anything up to what was held."""
    rng = random.Random(seed)
    budget = Budget(limit, spent)
    admitted: list[int] = []

    async def request(i: int) -> None:
        try:
            await budget.hold(amounts[i])
        except BudgetReachedError:
            return
        admitted.append(i)
        assert budget.spent + budget.held <= limit
        for _ in range(rng.randint(0, 3)):
            await asyncio.sleep(0)
        budget.settle(amounts[i], rng.randint(0, amounts[i]))

    async def run() -> None:
        await asyncio.gather(*(request(i) for i in range(len(amounts))))

    asyncio.run(run())
    assert admitted == sorted(admitted)  # in the order of asking
    assert budget.held == 0
    assert budget.spent <= max(limit, spent)


def test_a_request_waits_for_money_that_comes_back() -> None:
    """What is held and not charged can be spent by the next."""

    async def run() -> list[str]:
        budget, events = Budget(100), []
        await budget.hold(80)

        async def second() -> None:
            await budget.hold(60)
            events.append("second")

        task = asyncio.create_task(second())
        await asyncio.sleep(0.01)
        events.append("settled")
        budget.settle(80, 30)
        await task
        return events

    assert asyncio.run(run()) == ["settled", "second"]


def test_without_a_limit_everything_is_admitted() -> None:
    budget = Budget(None)
    asyncio.run(budget.hold(10**18))
    assert budget.held == 10**18
