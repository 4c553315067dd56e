"""Keeps the events of chosen chats and of their threads, and drops the others."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from vkteams_daemon.botapi.events import Event
from vkteams_daemon.botapi.values import fold_id


class ChatFilter:
    """The filter of `--chat-id`. Without chat ids it keeps everything.

    The id of a private chat may be an e-mail address, which is the same in any case.

    Attributes:
        chat_ids: the chosen chats, as `fold_id` spells them.
        threads: chats that are threads of a chosen one. `apply` learns them from events; the caller may add others.
    """

    def __init__(self, chat_ids: Collection[str] = ()) -> None:
        self.chat_ids = frozenset(map(fold_id, chat_ids))
        self.threads: set[str] = set()

    def chooses(self, chat_id: str | None) -> bool:
        """Whether this is a chosen chat."""
        return chat_id is not None and fold_id(chat_id) in self.chat_ids

    def apply(self, batch: Sequence[Event]) -> list[Event]:
        """The events of a batch that are kept. Events that belong to no chat are kept too."""
        if not self.chat_ids:
            return list(batch)
        # First learn from the whole batch: an event of a thread may come before the event that names its parent.
        for event in batch:
            self.threads.update(chat.chat_id for chat in event.facts.chats if self.chooses(chat.parent_chat_id))
        return [
            event
            for event in batch
            if event.chat_id is None or event.chat_id in self.threads or self.chooses(event.chat_id)
        ]
