"""Where a message can be read: its address on the page, or in the messenger."""

from __future__ import annotations

from urllib.parse import quote

from vkteams_daemon.options import Web
from vkteams_daemon.search.messages import MessageKey


def page_path(key: MessageKey) -> str:
    """The path of a message on the page."""
    return f"/m/{quote(key[0], safe='@')}/{quote(key[1], safe='')}"


def messenger_url(options: Web, key: MessageKey) -> str | None:
    """The messenger's own link to a message; None if the company has no pattern for such links."""
    chat_id, msg_id = (quote(part, safe="@") for part in key)
    return options.message_link.replace("{chat_id}", chat_id).replace("{msg_id}", msg_id) or None


def message_url(options: Web, key: MessageKey) -> str | None:
    """The address to cite: that of the page, otherwise the messenger's; None if neither is known."""
    if options.url:
        return options.url.rstrip("/") + page_path(key)
    return messenger_url(options, key)
