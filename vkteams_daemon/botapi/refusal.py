"""What an `ok: false` means: the description is all the API gives, so it is matched by its known texts."""

from __future__ import annotations

from typing import Any

from vkteams_daemon.errors import ApiError, ApiRefused, RateLimited, Unauthorised


def refusal(description: Any, retry_after: float | None = None) -> ApiError:
    """The error for an answer that says `ok: false` with this description (any value: it came from outside)."""
    text = description if isinstance(description, str) else ""
    known = text.lower()
    if "invalid token" in known or "parameter 'token'" in known:
        return Unauthorised("the Bot API refused the token", hint="Ask @metabot for the bot's token and set api.token.")
    if "ratelimit" in known.replace(" ", "").replace("_", ""):
        return RateLimited("the Bot API asks to slow down", retry_after=retry_after)
    shown = "".join(char if char.isprintable() else " " for char in text[:200]).strip()
    return ApiRefused(f"the Bot API refused the request: {shown or 'no description'}")
