"""The command line: one command a file; parses, calls the library, prints."""


def main() -> None:
    """Entry point of the ``metarouter`` command."""
    raise SystemExit(2)
