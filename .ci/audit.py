#!/usr/bin/env python3
"""Looks up known vulnerabilities of the pinned dependencies: `make audit`.

    .ci/audit.py [--service URL] REQUIREMENTS

Asks the JSON service of the package index for each pinned release. A known vulnerability that is neither withdrawn nor
accepted below makes the exit code 1. Where the index has no such service, for example a mirror, nothing can be looked
up: that is printed, and the exit code is 0.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

# The vulnerabilities that do not matter here, each with the reason.
ACCEPTED: dict[str, str] = {}
_TIMEOUT = 10.0  # seconds for one release


def pins(text: str) -> list[tuple[str, str]]:
    """The (name, version) of every pinned release of a requirements file."""
    return re.findall(r"(?m)^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", text)


def index_service() -> str:
    """The JSON service beside the index that pip uses."""
    from pip._internal.models.index import PyPI

    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"], text=True, capture_output=True, check=False
    )
    return re.sub(r"/simple/?$", "/pypi", done.stdout.strip() or PyPI.simple_url)


def vulnerabilities(service: str, name: str, version: str) -> list[dict[str, Any]]:
    """The known vulnerabilities of a release.

    Raises:
        OSError, ValueError: the service does not answer, or not with what it should.
    """
    with urllib.request.urlopen(f"{service.rstrip('/')}/{name}/{version}/json", timeout=_TIMEOUT) as answer:
        found = json.load(answer)
    if not isinstance(found, dict) or not isinstance(found.get("vulnerabilities"), list):
        raise ValueError("the answer has no list of vulnerabilities")
    return [entry for entry in found["vulnerabilities"] if not entry.get("withdrawn")]


def main() -> int:
    """Look everything up; 1 if a release has a known vulnerability."""
    parser = argparse.ArgumentParser(description="Look up known vulnerabilities of pinned releases.")
    parser.add_argument("requirements", type=Path)
    parser.add_argument("--service", metavar="URL", help="the JSON service; that of pip's index by default")
    options = parser.parse_args()
    service = options.service or index_service()
    releases = pins(options.requirements.read_text(encoding="utf-8"))
    if not releases:
        print(f"{options.requirements} pins nothing")
        return 1
    bad, failures, answered = 0, [], 0
    for name, version in releases:
        try:
            found = vulnerabilities(service, name, version)
        except (OSError, ValueError) as error:
            failures.append(f"{name} {version}: {error}")
            if not answered and len(failures) == 3:
                break  # no such service: the others need not be asked
            continue
        answered += 1
        for entry in found:
            known = {entry.get("id", "?"), *entry.get("aliases", ())}
            if reason := next((ACCEPTED[name] for name in known if name in ACCEPTED), ""):
                print(f"{name} {version}: {entry.get('id')}: accepted: {reason}")
                continue
            bad += 1
            fixed = ", ".join(entry.get("fixed_in") or ()) or "no release"
            print(f"{name} {version}: {entry.get('id')}: {entry.get('summary') or entry.get('link')}; fixed in {fixed}")
    if not answered:
        print(f"vulnerabilities: not looked up: no service answered ({failures[0]})")
        return 0
    for failure in failures:
        print(f"not looked up: {failure}")
    print(f"vulnerabilities: {answered} of {len(releases)} releases looked up, {bad} found")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
