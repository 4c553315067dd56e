"""Reports of tests on hostile texts, made fit for the way from one process to another (pytest-xdist).

What is sent there has to be UTF-8, and a lone surrogate in a test's output or log, which has to be there, is not.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Write what cannot be encoded as its escape."""
    return _encodable((yield))


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_encodable(key): _encodable(content) for key, content in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_encodable, value))
    return value
