"""``python -m metarouter`` is the command ``metarouter``."""

from metarouter.cli import main

if __name__ == "__main__":
    main()
