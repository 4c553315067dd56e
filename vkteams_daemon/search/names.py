"""People and chats by their names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import psycopg
from psycopg.rows import tuple_row


def names(connection: psycopg.Connection[Any], user_ids: Iterable[str]) -> dict[str, str]:
    """The people's names by user id: first and last name, otherwise the nick; who has neither is left out."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            "SELECT user_id, coalesce(nullif(concat_ws(' ', first_name, last_name), ''), nick) FROM users"
            " WHERE user_id = ANY(%s)",
            (list(user_ids),),
        )
        return {user_id: name for user_id, name in cursor if name}


def chat_titles(connection: psycopg.Connection[Any], chat_ids: Iterable[str]) -> dict[str, str]:
    """The chats' titles by chat id; what has none, not even by its parent or its people, is left out."""
    wanted = list(chat_ids)
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            "SELECT c.chat_id, coalesce(nullif(c.title, ''), p.title)"
            " FROM chats c LEFT JOIN chats p ON p.chat_id = c.parent_chat_id WHERE c.chat_id = ANY(%s)",
            (wanted,),
        )
        titles = {chat_id: title for chat_id, title in cursor if title}
    # A private chat has no title, and its id is the other one's user id.
    return names(connection, [chat_id for chat_id in wanted if chat_id not in titles]) | titles
