"""`vkteamsctl context message`: one message and its thread."""

from __future__ import annotations

import argparse

from vkteams_daemon.config import Config
from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.commands.context.conversation_view import show_conversation
from vkteams_daemon.ctl.connections import open_archive
from vkteams_daemon.ctl.output import Answer, Screen, cell, one_line


def register(noun: Noun) -> None:
    """Add the verb message."""
    message = noun.verb(
        "message",
        "one message and its thread: what it answers, and what answers it",
        _message,
        "vkteamsctl context message 7576322310174586465 --output json",
        "vkteamsctl context message 7576322310174586465 --versions",
    )
    message.add_argument("message", metavar="MSGID", help="id of the message")
    message.add_argument("--chat-id", metavar="ID", help="its chat, when several chats have a message with this id")
    message.add_argument(
        "--versions", action="store_true", help="what it said before its edits, and before it was deleted"
    )


def _message(args: argparse.Namespace, config: Config) -> Answer:
    if args.versions:
        return _versions(args, config)
    with open_archive(config) as archive:
        chat_id = args.chat_id or archive.chat_of(args.message)
        with_thread = archive.message(chat_id, args.message)
    conversation = sorted(
        [with_thread.message, *with_thread.thread], key=lambda message: (message.sent_at, message.msg_id)
    )

    def render(screen: Screen) -> None:
        from vkteams_daemon.search.messages import titled

        title = titled(with_thread.chat_title or chat_id, with_thread.thread_of)
        screen.prose(f"{title} · {chat_id}", "bold", further="  ")
        show_conversation(
            screen, conversation, chat_id, {args.message}, thread=with_thread.thread_of is not None
        )  # fmt: skip

    return Answer(with_thread, render, ids=[f"{message.chat_id} {message.msg_id}" for message in conversation])


def _versions(args: argparse.Namespace, config: Config) -> Answer:
    with open_archive(config) as archive:
        chat_id = args.chat_id or archive.chat_of(args.message, deleted=True)
        history = archive.versions(chat_id, args.message)

    def render(screen: Screen) -> None:
        deleted = f" · deleted {cell(history.deleted_at)}" if history.deleted_at else ""
        screen.line(f"{history.author or 'nobody'} · {chat_id} · message {history.msg_id}{deleted}", "bold")
        for version in history.versions:
            until = f" until {cell(version.replaced_at)}" if version.replaced_at else ""
            screen.line(f"  {version.version}: {cell(version.written_at)}{until}", "dim")
            for line in version.text.splitlines() or ["(no text is kept)"]:
                screen.line(f"     {one_line(line)}")

    return Answer(history, render, ids=[f"{chat_id} {history.msg_id}"])
