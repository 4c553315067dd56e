"""`vkteamsctl context message`: one message and its thread."""

from __future__ import annotations

import argparse

from vkteams_daemon.config import Config
from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.commands.context.conversation_view import show_conversation
from vkteams_daemon.ctl.connections import open_archive
from vkteams_daemon.ctl.output import Answer, Screen


def register(noun: Noun) -> None:
    """Add the verb message."""
    message = noun.verb(
        "message",
        "one message and its thread: what it answers, and what answers it",
        _message,
        "vkteamsctl context message 7576322310174586465 --output json",
    )
    message.add_argument("message", metavar="MSGID", help="id of the message")
    message.add_argument("--chat-id", metavar="ID", help="its chat, when several chats have a message with this id")


def _message(args: argparse.Namespace, config: Config) -> Answer:
    with open_archive(config) as archive:
        chat_id = args.chat_id or archive.chat_of(args.message)
        with_thread = archive.message(chat_id, args.message)
    conversation = sorted(
        [with_thread.message, *with_thread.thread], key=lambda message: (message.sent_at, message.msg_id)
    )

    def render(screen: Screen) -> None:
        screen.line(f"{with_thread.chat_title or chat_id} · {chat_id}", "bold")
        show_conversation(screen, conversation, chat_id, {args.message})

    return Answer(with_thread, render, ids=[f"{message.chat_id} {message.msg_id}" for message in conversation])
