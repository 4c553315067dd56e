"""Which chats are kept, where not all of them are: the chosen ones and their threads."""

from __future__ import annotations

from collections.abc import Collection

from vkteams_daemon.botapi.events import Event


class ChosenChats:
    """The filter of `--chat-id`; an empty choice keeps everything.

    Attributes:
        threads: chats that are known to be threads of a chosen one; learnt from events, and filled by who knows more.
    """

    def __init__(self, chat_ids: Collection[str] = ()) -> None:
        self.chat_ids = frozenset(chat_ids)
        self.threads: set[str] = set()

    def __contains__(self, event: Event) -> bool:
        """Whether the event is kept; one that belongs to no chat is."""
        if not self.chat_ids or event.chat_id is None:
            return True
        for chat in event.facts.chats:
            if chat.parent_chat_id in self.chat_ids:
                self.threads.add(chat.chat_id)
        return event.chat_id in self.chat_ids or event.chat_id in self.threads
