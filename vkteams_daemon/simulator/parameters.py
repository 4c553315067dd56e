"""The parameters of a request, from its query string, its urlencoded body or its multipart body."""

from __future__ import annotations

import email.message
import json
import math
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs


class Refused(Exception):
    """The request is answered `ok: false` with this description."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that came with the request."""

    name: str
    type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Parameters:
    """Values and files by name. A name may have several values."""

    values: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, Upload] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """A required value.

        Raises:
            Refused: it is missing or empty.
        """
        value = self.optional(name)
        if value is None:
            raise Refused(f"Missing required parameter '{name}'")
        return value

    def optional(self, name: str) -> str | None:
        """The first value; None if it is missing or empty."""
        return next(iter(self.values.get(name, ())), None) or None

    def all(self, name: str) -> list[str]:
        """Every value that is not empty."""
        return [value for value in self.values.get(name, ()) if value]

    def integer(self, name: str) -> int:
        """A whole number.

        Raises:
            Refused: it is missing, or is not a whole number.
        """
        number = whole_number(self.text(name))
        if number is None:
            raise Refused(f"Bad request: {name} is not a whole number")
        return number

    def count(self, name: str, default: int) -> int:
        """A whole number from 0 on, or `default` if it is missing.

        Raises:
            Refused: it is not a whole number, or is negative.
        """
        number = self.integer(name) if self.optional(name) else default
        if number < 0:
            raise Refused(f"Bad request: {name} is below zero")
        return number

    def seconds(self, name: str) -> float:
        """A time span in seconds, below one day.

        Raises:
            Refused: it is missing, out of range, or not a number.
        """
        try:
            value = float(self.text(name))
        except ValueError:
            value = math.nan
        if not 0 <= value < 86400:
            raise Refused(f"Bad request: {name} is not a number of seconds")
        return value

    def json(self, name: str, kind: type) -> Any:
        """A value parsed as JSON of this type; None if it is missing.

        Raises:
            Refused: it is not JSON, or of another type.
        """
        text = self.optional(name)
        if text is None:
            return None
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, kind):
            raise Refused(f"Bad request: {name} is not the JSON that is expected")
        return value

    def to_log(self) -> dict[str, Any]:
        """Everything for the log except the token and the contents of files."""
        values = {name: texts if len(texts) > 1 else texts[0] for name, texts in self.values.items() if name != "token"}
        return values | {name: f"{upload.name}, {len(upload.content)} bytes" for name, upload in self.files.items()}


def whole_number(text: str) -> int | None:
    """The whole number that the text spells; None if it spells none, or one of more than 40 characters."""
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() and len(text) <= 40 else None


def parse_request(query: str, content_type: str, body: bytes) -> Parameters:
    """The parameters of a request.

    Raises:
        Refused: the body cannot be read.
    """
    values = parse_qs(query, keep_blank_values=True)
    files: dict[str, Upload] = {}
    header = _content_type(content_type)
    if header.get_content_type() == "application/x-www-form-urlencoded" and body:
        _merge(values, parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True))
    elif header.get_content_maintype() == "multipart":
        for disposition, kind, content in _parts(body, str(header.get_boundary() or "")):
            name, filename = disposition.get_param("name", header="content-disposition"), disposition.get_filename()
            if filename is not None:
                files[str(name)] = Upload(filename, kind, content)
            else:
                _merge(values, {str(name): [content.decode("utf-8", "replace")]})
    return Parameters(values, files)


def _merge(values: dict[str, list[str]], more: dict[str, list[str]]) -> None:
    for name, further in more.items():
        values.setdefault(name, []).extend(further)


def _parts(body: bytes, boundary: str) -> list[tuple[email.message.Message, str, bytes]]:
    """Disposition, content type and content of each part (RFC 7578)."""
    parts = []
    pieces = (b"\r\n" + body).split(b"\r\n--" + boundary.encode())
    if not boundary or len(pieces) < 2 or not pieces[-1].startswith(b"--"):
        raise Refused("Bad request: the multipart body cannot be read")
    for piece in pieces[1:-1]:
        head, separator, content = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        headers = dict(_parse_header(line) for line in head.decode("utf-8", "replace").split("\r\n"))
        if not separator or "content-disposition" not in headers:
            raise Refused("Bad request: the multipart body cannot be read")
        disposition = email.message.Message()
        disposition["Content-Disposition"] = headers["content-disposition"]
        kind = headers.get("content-type", "")
        # The type becomes an HTTP header when the file is fetched. A header takes printable ASCII only.
        kind = kind if kind.isascii() and kind.isprintable() else ""
        parts.append((disposition, kind or "application/octet-stream", content))
    return parts


def _parse_header(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip().lower(), value.strip()


def _content_type(value: str) -> email.message.Message:
    message = email.message.Message()
    message["Content-Type"] = value or "application/octet-stream"
    return message
