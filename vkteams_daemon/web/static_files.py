"""The files beside the pages: style, script and icon. Their address has their version, so a browser may keep them."""

from __future__ import annotations

import hashlib
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response

_TYPES = {"style.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
_AGE = "public, max-age=31536000, immutable"


class StaticFiles:
    """Answers with the files, which are read once.

    Attributes:
        version: changes with any of them.
    """

    def __init__(self) -> None:
        self._files = {name: resources.files(__package__).joinpath("static", name).read_bytes() for name in _TYPES}
        self.version = hashlib.sha256(b"".join(self._files.values())).hexdigest()[:12]

    async def answer(self, request: Request) -> Response:
        """The file that the request names."""
        name = request.path_params["name"]
        if name not in self._files:
            return Response(status_code=404)
        return Response(self._files[name], media_type=_TYPES[name], headers={"cache-control": _AGE})
