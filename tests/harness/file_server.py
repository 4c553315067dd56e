"""A file server on loopback in place of the Hugging Face hub and of a package index.

The hub's protocol, as huggingface_hub speaks it: HEAD and GET of /REPOSITORY/resolve/REVISION/FILE. The answer has the
commit and an etag (the SHA-256 of a large file) in its headers. The index's protocol is the simple one of PEP 503.
"""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self


class FileServer:
    """Serves files under paths; used as a context manager.

    Attributes:
        files: content by path.
        commit: for the header X-Repo-Commit.
        cut: the path whose content breaks off in the middle.
        requests: method and path of every request, in order.
    """

    def __init__(self, commit: str = "0" * 40) -> None:
        self.files: dict[str, bytes] = {}
        self.commit = commit
        self.cut = ""
        self.requests: list[str] = []
        outer = self

        class Answers(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer._answer(self)

            def do_HEAD(self) -> None:
                outer._answer(self)

            def log_message(self, format: str, *args: object) -> None:
                """Not on the tests' terminal."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        self.requests.append(f"{request.command} {request.path}")
        content = self.files.get(request.path)
        if content is None:
            request.send_response(404)
            request.send_header("X-Error-Code", "EntryNotFound")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        start = int((request.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        digest = hashlib.sha256(content).hexdigest()
        request.send_response(206 if start else 200)
        request.send_header("X-Repo-Commit", self.commit)
        request.send_header("ETag", f'"{digest}"')
        request.send_header("X-Linked-Etag", f'"{digest}"')
        request.send_header("X-Linked-Size", str(len(content)))
        request.send_header("Content-Type", "text/html" if request.path.endswith("/") else "application/octet-stream")
        request.send_header("Content-Length", str(len(content) - start))
        request.end_headers()
        if request.command == "HEAD":
            return
        if request.path == self.cut:
            request.wfile.write(content[start : start + (len(content) - start) // 2])
            request.close_connection = True
            return
        request.wfile.write(content[start:])

    def offer_repository(self, repository: str, directory: Path) -> None:
        """Serve the directory's files as that repository of the hub."""
        for file in directory.iterdir():
            self.files[f"/{repository}/resolve/{self.commit}/{file.name}"] = file.read_bytes()

    def offer_wheel(self, project: str, wheel: Path) -> None:
        """Serve the wheel as a project of a package index at /simple/."""
        link = f'<a href="/wheels/{wheel.name}">{wheel.name}</a>'
        self.files[f"/simple/{project}/"] = f"<!DOCTYPE html><html><body>{link}</body></html>".encode()
        self.files[f"/wheels/{wheel.name}"] = wheel.read_bytes()

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop answering; nothing listens at `url` afterwards."""
        self._server.shutdown()
        self._server.server_close()
