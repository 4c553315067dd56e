"""The names of people and the titles of chats."""

from __future__ import annotations

from collections.abc import Iterable

from vkteams_daemon.store.connections import Connection


def names(connection: Connection, user_ids: Iterable[str]) -> dict[str, str]:
    """People's names by user id: first and last name, otherwise the nick. People with neither are left out."""
    rows = connection.execute(
        "SELECT user_id, coalesce(nullif(pg_catalog.concat_ws(' ', first_name, last_name), ''), nick) FROM users"
        " WHERE user_id = ANY(%s)",
        (list(user_ids),),
    )
    return {user_id: name for user_id, name in rows if name}


def chat_titles(connection: Connection, chat_ids: Iterable[str]) -> dict[str, str]:
    """Titles by chat id: the chat's own, its parent's, or the name of a private chat's other person.

    Chats without any of these are left out.
    """
    ids = list(chat_ids)
    rows = connection.execute(
        "SELECT c.chat_id, coalesce(nullif(c.title, ''), p.title)"
        " FROM chats c LEFT JOIN chats p ON p.chat_id = c.parent_chat_id WHERE c.chat_id = ANY(%s)",
        (ids,),
    )
    titles = {chat_id: title for chat_id, title in rows if title}
    # A private chat has no title. Its id is the user id of the other person.
    return names(connection, [chat_id for chat_id in ids if chat_id not in titles]) | titles
