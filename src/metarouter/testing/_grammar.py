"""Words from which :mod:`metarouter.testing` writes queries: topics, stems, slots, details.

Every topic has stems at three levels of difficulty. ``{a}`` and ``{b}`` are
filled from the topic's own words, ``{n}`` with a number. What a query says is
what its quality depends on, so a text model can learn the gain.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TOPICS", "Topic"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Topic:
    """One topic: its words, and the quality of two models on it.

    `stems` holds the easy, the middling and the hard questions. `cheap` and
    `premium` are (intercept, slope in difficulty) of the quality's log odds.
    `judge_taste`, in [-1, 1], is how much more than it deserves a topic-biased
    judge likes the premium answer.
    """

    name: str
    stems: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
    a: tuple[str, ...]
    b: tuple[str, ...]
    details: tuple[str, ...]
    cheap: tuple[float, float]
    premium: tuple[float, float]
    judge_taste: float


TOPICS: tuple[Topic, ...] = (
    Topic(
        name="coding",
        stems=(
            (
                "How do I write a {a} in {b}?",
                "Show me a short example of a {a} in {b}.",
                "What does the error on line {n} of my {b} script mean? It uses a {a}.",
            ),
            (
                "Write a {b} function with a {a} that handles empty input and {n} edge cases.",
                "Refactor my {b} module so that the {a} can be unit tested.",
                "Why does my {a} in {b} get slower after {n} calls?",
            ),
            (
                "Design a thread-safe, lock-free {a} in {b} and argue why it is linearizable.",
                "Find the race condition: {n} workers share one {a} in {b} and it deadlocks.",
                "Implement a persistent {a} in {b} with O(log n) updates; derive the bound.",
            ),
        ),
        a=(
            "linked list",
            "rate limiter",
            "for loop",
            "hash map",
            "queue",
            "parser",
            "cache",
            "trie",
        ),
        b=("Python", "Rust", "Go", "TypeScript", "C++", "Java", "Kotlin", "SQL"),
        details=(
            "The code runs in a container with {n} MB of memory.",
            "It must not use any third-party package.",
            "Here is the trace: `File main, line {n}, in run`, then a timeout.",
            "Please keep the signature `def handle(items: list[int]) -> dict` as it is.",
            "We run {n} requests a second in production.",
            "The test suite calls it with nested dictionaries and None.",
        ),
        cheap=(1.6, -3.6),
        premium=(2.3, -1.5),
        judge_taste=-0.7,
    ),
    Topic(
        name="maths",
        stems=(
            (
                "What is {n} times 17?",
                "Compute the {a} of {n} and {n}.",
                "What is the {a} in simple words? An example with {n} helps.",
            ),
            (
                "Solve 3x^2 - {n}x + 4 = 0 and check the {a} with {b}.",
                "A box holds {n} balls; use the {a} to find the chance of two red ones by {b}.",
                "Find the {a} of f(x) = x^3 - {n}x with {b}.",
            ),
            (
                "Prove rigorously by {b} that the {a} exists for every n > {n}.",
                "Show that the {a} of a compact operator is countable; prove each lemma by {b}.",
                "Give a counterexample or a proof by {b}: every {a} of order {n} is cyclic.",
            ),
        ),
        a=("mean", "derivative", "limit", "group", "integral", "spectrum", "eigenvalue", "divisor"),
        b=(
            "induction",
            "contradiction",
            "substitution",
            "symmetry",
            "the product rule",
            "Bayes' theorem",
            "a generating function",
            "compactness",
        ),
        details=(
            "Show every step of the calculation.",
            "Round the result to {n} digits.",
            "Assume that the variables are independent and x > {n}.",
            "Write the answer as a fraction a/b.",
            "The textbook gives {n} but I do not see why.",
            "Use only what a first-year student knows.",
        ),
        cheap=(1.4, -4.4),
        premium=(2.4, -1.8),
        judge_taste=0.5,
    ),
    Topic(
        name="law",
        stems=(
            (
                "What is a {a}?",
                "Do I need a {a} as a {b}?",
                "How many days does a {b} have to answer a {a}? I read {n}.",
            ),
            (
                "My {b} refuses the {a} after {n} days. What are my options?",
                "Draft a polite letter to a {b} about a {a} of {n} euros.",
                "Compare a {a} under common law and civil law for a {b}.",
            ),
            (
                "Analyse whether the {a} binds a {b} when jurisdictions conflict; cite doctrine.",
                "Assess liability under {n} clauses of a {a} between a {b} and its insurer.",
                "Construct the strongest argument on appeal against the {a} of a {b}.",
            ),
        ),
        a=(
            "lease",
            "patent",
            "subpoena",
            "non-compete clause",
            "deposit",
            "warranty",
            "trust",
            "fine",
        ),
        b=("tenant", "landlord", "employer", "freelancer", "company", "neighbour", "buyer", "heir"),
        details=(
            "The contract was signed {n} months ago.",
            "There was only an oral agreement and one witness.",
            "Both parties live in different countries.",
            "Clause {n} says that notice has to be given in writing.",
            "The other side has already hired a lawyer.",
            "No court has ruled on this yet as far as I know.",
        ),
        cheap=(1.2, -2.6),
        premium=(1.9, -1.4),
        judge_taste=0.9,
    ),
    Topic(
        name="medicine",
        stems=(
            (
                "What is {a}?",
                "Is {b} good for mild {a}?",
                "How much {b} may an adult take in a day? The pack says {n} mg.",
            ),
            (
                "What are the usual causes of {a} in a patient of {n} years?",
                "Compare {b} with rest for {a} that has lasted {n} days.",
                "Which side effects of {b} look like {a}?",
            ),
            (
                "Give a differential diagnosis: {a}, creatinine {n}, on {b}, falling platelets.",
                "Adjust {b} for a patient of {n} kg with renal failure and {a}; justify each step.",
                "Explain the mechanism by which {b} could worsen {a} and how to rule it out.",
            ),
        ),
        a=(
            "fever",
            "anaemia",
            "migraine",
            "back pain",
            "hypertension",
            "a rash",
            "insomnia",
            "asthma",
        ),
        b=(
            "ibuprofen",
            "metformin",
            "warfarin",
            "paracetamol",
            "lisinopril",
            "iron",
            "heparin",
            "an antihistamine",
        ),
        details=(
            "The patient has been unwell for {n} days.",
            "There is a family history of heart disease.",
            "Blood pressure was {n} over 80 this morning.",
            "She is allergic to penicillin.",
            "No other medication was taken this week.",
            "The laboratory results came back normal except one.",
        ),
        cheap=(1.0, -2.4),
        premium=(2.1, -1.6),
        judge_taste=-0.3,
    ),
    Topic(
        name="cooking",
        stems=(
            (
                "How long do I boil {a}?",
                "Give me a quick recipe with {a} and {b}.",
                "Can I swap {b} for something else with {a}?",
            ),
            (
                "Plan a dinner for {n} people with {a} as the main dish and no {b}.",
                "Why did my {a} with {b} turn out dry after {n} minutes?",
                "Scale this recipe for {a} from 4 to {n} portions, with {b}.",
            ),
            (
                "Design a {n}-course tasting menu around {a} and {b} with timing for one oven.",
                "Explain the chemistry of {a} emulsified with {b} at {n} degrees.",
                "Convert a sourdough schedule with {a} and {b} to {n} degrees room temperature.",
            ),
        ),
        a=("rice", "salmon", "eggs", "lentils", "chicken", "potatoes", "mushrooms", "pumpkin"),
        b=("butter", "garlic", "cream", "lemon", "soy sauce", "honey", "mustard", "cheese"),
        details=(
            "I have {n} minutes and one pan.",
            "One guest does not eat gluten.",
            "It should be cheap and use leftovers.",
            "The kitchen has no scale.",
            "My children do not like spicy food.",
            "Please list the ingredients first.",
        ),
        cheap=(2.2, -1.2),
        premium=(2.3, -1.0),
        judge_taste=0.6,
    ),
    Topic(
        name="travel",
        stems=(
            (
                "What should I see in {a}?",
                "Is {a} nice in {b}?",
                "How do I get from the airport to the centre of {a}?",
            ),
            (
                "Plan {n} days in {a} in {b} with two children.",
                "Compare {a} and the coast in {b} on a budget of {n} euros.",
                "Which day trips from {a} work in {b} without a car?",
            ),
            (
                "Optimise a route through {a} and {n} other cities in {b} under rail pass rules.",
                "Plan {n} days in {a} in {b} with a wheelchair, two diets and three visas.",
                "Rebook {n} people from {a} in {b} after a strike with the least total delay.",
            ),
        ),
        a=("Lisbon", "Kyoto", "Oslo", "Naples", "Hanoi", "Montreal", "Cape Town", "Seville"),
        b=(
            "January",
            "spring",
            "June",
            "August",
            "autumn",
            "November",
            "the rainy season",
            "winter",
        ),
        details=(
            "We like museums and good coffee.",
            "Our hotel is {n} minutes from the station.",
            "One of us cannot walk far.",
            "We have been there once before.",
            "Flights are already booked.",
            "The total must stay below {n} euros.",
        ),
        cheap=(2.0, -1.6),
        premium=(2.2, -1.2),
        judge_taste=0.2,
    ),
    Topic(
        name="writing",
        stems=(
            (
                "Write a {a} about {b}.",
                "Fix the grammar in my {a} about {b}.",
                "Suggest {n} titles for a {a} about {b}.",
            ),
            (
                "Rewrite this {a} about {b} in a formal tone in {n} words.",
                "Summarise a {a} about {b} in {n} bullet points for a manager.",
                "Write a {a} about {b} that opens with a question and ends with a promise.",
            ),
            (
                "Write a {a} about {b} as a villanelle of exactly {n} lines with slant rhymes.",
                "Write a {a} about {b} with an unreliable narrator whose lie appears in line {n}.",
                "Imitate two voices in one {a} about {b}, in {n} words, without the letter e.",
            ),
        ),
        a=(
            "poem",
            "cover letter",
            "toast",
            "short story",
            "press release",
            "blog post",
            "speech",
            "product text",
        ),
        b=(
            "autumn rain",
            "a lost dog",
            "a new colleague",
            "the sea",
            "a bakery",
            "a long train ride",
            "my sister's wedding",
            "a small robot",
        ),
        details=(
            "Keep it under {n} words.",
            "The readers are {n} years old.",
            "Please avoid clichés.",
            "It should sound warm but not sweet.",
            "Mention a blue bicycle.",
            "My first draft felt stiff.",
        ),
        cheap=(1.9, -2.0),
        premium=(1.9, -1.1),
        judge_taste=-0.9,
    ),
    Topic(
        name="data analysis",
        stems=(
            (
                "What is a {a}?",
                "How do I plot a {a} of {b}?",
                "How do I count missing values of {b} in {n} columns?",
            ),
            (
                "Which {a} suits {n} rows of {b} with outliers?",
                "Clean {n} rows of {b} and describe the {a}.",
                "Interpret a {a} of 0.{n} for {b}.",
            ),
            (
                "Identify the effect of price on {b} with a {a} and {n} instruments; justify them.",
                "Derive the standard error of a {a} of {b} under clustering in {n} groups.",
                "Design a sequential test with a {a} for {b} that keeps its level after {n} looks.",
            ),
        ),
        a=(
            "histogram",
            "regression",
            "t-test",
            "correlation",
            "pivot table",
            "confidence interval",
            "random forest",
            "time series",
        ),
        b=(
            "sales",
            "clicks",
            "temperatures",
            "survey answers",
            "sensor readings",
            "house prices",
            "churn",
            "waiting times",
        ),
        details=(
            "The table has {n} columns and a date.",
            "About {n} percent of the values are missing.",
            "Use pandas and no other library.",
            "My manager wants one number.",
            "The groups have very different sizes.",
            "Assume that weekends behave differently.",
        ),
        cheap=(1.5, -3.0),
        premium=(2.2, -1.4),
        judge_taste=0.0,
    ),
    Topic(
        name="small talk",
        stems=(
            (
                "Hi! How was your {a}?",
                "Tell me something nice about {b}.",
                "Good morning, any plans for the {a}?",
            ),
            (
                "I feel a bit down after my {a}. Can we talk about {b}?",
                "Give me {n} icebreakers about {b} for the {a}.",
                "What would you say to a friend who dislikes {b} on a {a}?",
            ),
            (
                "Argue with me about {b}, change your mind {n} times, and remember the {a}.",
                "My {a} went badly because of {b}; help me to make up with {n} people.",
                "Invent a game about {b} for a {a} with {n} strangers and three secret rules.",
            ),
        ),
        a=("weekend", "birthday", "evening", "first day", "holiday", "Monday", "party", "walk"),
        b=(
            "cats",
            "the weather",
            "music",
            "football",
            "tea",
            "gardens",
            "old films",
            "board games",
        ),
        details=(
            "I slept {n} hours last night.",
            "It is raining again.",
            "My neighbour says hello.",
            "I just had {n} cups of tea.",
            "No rush at all.",
            "You always cheer me up.",
        ),
        cheap=(2.6, -1.0),
        premium=(1.9, -0.4),
        judge_taste=0.4,
    ),
)
