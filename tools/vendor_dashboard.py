"""The dashboard's libraries, from the packages that npm serves: files, licences, hashes.

cd /tmp && npm pack preact@11.2.0 htm@3.1.1 echarts@6.1.0
./run python tools/vendor_dashboard.py /tmp

A browser finds modules by address only, so one import of Preact's hooks, which
names a package, is made relative. The manifest holds the hash of what npm
serves and of what is kept; a test checks both.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).resolve().parents[1] / "src/metarouter/dashboard/static/vendor"

# name, version, licence, files to names here
PACKAGES = (
    ("preact", "11.2.0", "MIT", {
        "dist/preact.mjs": "preact.mjs",
        "hooks/dist/hooks.mjs": "preact-hooks.mjs",
        "LICENSE": "preact.LICENSE",
    }),
    ("htm", "3.1.1", "Apache-2.0", {"dist/htm.mjs": "htm.mjs", "LICENSE": "htm.LICENSE"}),
    ("echarts", "6.1.0", "Apache-2.0", {
        "dist/echarts.common.min.js": "echarts.common.min.js",
        "LICENSE": "echarts.LICENSE",
        "NOTICE": "echarts.NOTICE",
    }),
)  # fmt: skip
REPLACED = {"preact-hooks.mjs": ('from"preact"', 'from"./preact.mjs"')}


def vendor(folder: Path) -> list[dict[str, object]]:
    """Copy the files of all packages; what the manifest says of each."""
    entries: list[dict[str, object]] = []
    for package, version, licence, names in PACKAGES:
        with tarfile.open(folder / f"{package}-{version}.tgz") as archive:
            for source, name in names.items():
                member = archive.extractfile(f"package/{source}")
                if member is None:
                    raise FileNotFoundError(f"{package} {version} has no file {source}")
                entries.append(_keep(name, member.read()) | {
                    "package": package, "version": version, "licence": licence, "source": source,
                })  # fmt: skip
    return entries


def _keep(name: str, content: bytes) -> dict[str, object]:
    old, new = REPLACED.get(name, ("", ""))
    kept = content.replace(old.encode(), new.encode()) if old else content
    (HERE / name).write_bytes(kept)
    entry: dict[str, object] = {"file": name, "sha256": hashlib.sha256(kept).hexdigest()}
    if old:
        entry |= {"replaced": [old, new], "npm_sha256": hashlib.sha256(content).hexdigest()}
    return entry


def main() -> int:
    """Write the files and ``manifest.json``."""
    HERE.mkdir(parents=True, exist_ok=True)
    text = json.dumps(vendor(Path(sys.argv[1])), indent=2)
    (HERE / "manifest.json").write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
