"""Which chats are kept, where not all of them are: the chosen ones and their threads."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from vkteams_daemon.botapi.events import Event


class ChatFilter:
    """The filter of `--chat-id`; an empty choice keeps everything.

    Attributes:
        threads: chats that are known to be threads of a chosen one; learnt from events, and filled by who knows more.
    """

    def __init__(self, chat_ids: Collection[str] = ()) -> None:
        self.chat_ids = frozenset(chat_ids)
        self.threads: set[str] = set()

    def apply(self, batch: Sequence[Event]) -> list[Event]:
        """The events of a batch that are kept; those that belong to no chat are."""
        if not self.chat_ids:
            return list(batch)
        # All at once: what happens in a thread may come before what tells whose thread it is.
        for event in batch:
            self.threads.update(chat.chat_id for chat in event.facts.chats if chat.parent_chat_id in self.chat_ids)
        wanted = self.chat_ids | self.threads
        return [event for event in batch if event.chat_id is None or event.chat_id in wanted]
