"""Requests and streams as applications send and get them, byte by byte, in all protocols."""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st


def _read_requests() -> dict[str, list[bytes]]:
    """By path: the fields after the model, spelled as some client would."""
    found: dict[str, list[bytes]] = {}
    for line in (Path(__file__).parent / "conformance_requests.tsv").read_bytes().splitlines():
        path, _, fields = line.partition(b"\t")
        found.setdefault(path.decode(), []).append(fields)
    return found


REQUESTS = _read_requests()

# What a stream may look like on the wire; none of it is ours to tidy up.
STREAMS: dict[str, bytes] = {
    "ends of lines by CRLF": b'data: {"a": 1}\r\n\r\ndata: [DONE]\r\n\r\n',
    "ends of lines by CR": b"data: 1\r\rdata: 2\r\r",
    "comments and keep-alives": b": WORKING\n\n:\n\nevent: ping\ndata: {}\n\ndata: 1\n\n",
    "data of several lines": b"event: x\nid: 7\nretry: 10\ndata: {\ndata: }\n\ndata:no space\n\n",
    "no end of line at the end": b'data: {"a": 1}\n\ndata: [DONE]',
    "characters of several bytes": 'data: {"t": "日本 🙂 é ‍👩‍👧"}\n\n'.encode() * 3,
    "bytes that are no UTF-8": b"data: \xff\xfe\x00\n\n",
    "a byte order mark": b"\xef\xbb\xbfdata: 1\n\n",
    "usage in an event of its own": b'data: {"usage":{"prompt_tokens":1}}\n\ndata: [DONE]\n\n',
    "an error in the middle": b'data: {"a":1}\n\nevent: error\ndata: {"error": {}}\n\n',
    "one long event": b"data: " + b"x" * 200_000 + b"\n\n",
}

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@st.composite
def strings(draw: st.DrawFn) -> str:
    """A JSON string: plain, escaped, surrogate pairs, escapes that need not be."""
    parts = draw(
        st.lists(
            st.one_of(
                _TEXT.map(_escaped),
                st.integers(0, 0xD7FF).map(lambda code: f"\\u{code:04x}"),
                st.integers(0x20, 0x7E).map(lambda code: f"\\u{code:04X}"),
                st.sampled_from(["\\/", "\\ud83d\\ude42", "\\\\", '\\"', "\\b\\f\\n\\r\\t"]),
            ),
            max_size=3,
        )
    )
    return '"' + "".join(parts) + '"'


def _escaped(text: str) -> str:
    return "".join(f"\\u{ord(c):04x}" if c < " " or c in '"\\' else c for c in text)


NUMBERS = st.one_of(
    st.integers().map(str),
    st.sampled_from(
        ["-0", "0.10", "1E+2", "1e-7", "-1.50e3", "1e400", "9" * 60, "0.1" + "0" * 40, "1.0"]
    ),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
)
SPACES = st.text(alphabet=" \t\n\r", max_size=3)


@st.composite
def values(draw: st.DrawFn, depth: int = 3) -> str:
    """Any JSON value as somebody might spell it, names given twice included."""
    kinds = ["scalar", "scalar", "array", "object"] if depth else ["scalar"]
    kind = draw(st.sampled_from(kinds))
    if kind == "scalar":
        return draw(st.one_of(NUMBERS, strings(), st.sampled_from(["true", "false", "null"])))
    inner = draw(st.lists(values(depth=depth - 1), max_size=3))
    if kind == "array":
        spaced = [draw(SPACES) + item + draw(SPACES) for item in inner]
        return "[" + ",".join(spaced) + draw(SPACES) * (not spaced) + "]"
    return "{" + ",".join(draw(fields(value)) for value in inner) + "}"


@st.composite
def fields(draw: st.DrawFn, value: str, name: str | None = None) -> str:
    """A field with odd white space around its parts."""
    spelled = draw(strings()) if name is None else name
    return "".join([draw(SPACES), spelled, draw(SPACES), ":", draw(SPACES), value, draw(SPACES)])


def cut(content: bytes, places: list[int]) -> list[bytes]:
    """The content in pieces that end at the places."""
    ends = sorted({place % len(content) for place in places} - {0})
    return [content[a:b] for a, b in zip([0, *ends], [*ends, len(content)], strict=True)]
