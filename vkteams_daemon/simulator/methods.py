"""The Bot API's methods but for events/get: what a bot asks and does. What a bot does gives no event."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote as urlquote

from vkteams_daemon.simulator.parameters import Parameters, Refused, whole_number
from vkteams_daemon.simulator.world import Chat, World

Answer = dict[str, Any]
POLL = "events/get"
PAGE = 100  # members in one answer of chats/getMembers


def self_get(world: World, given: Parameters) -> Answer:
    """Who the bot is."""
    return dict(world.bot)


def send_text(world: World, given: Parameters) -> Answer:
    """A text, a reply, or a forward."""
    return {"msgId": _sent(world, given, given.optional("text"))["msgId"]}


def send_file(world: World, given: Parameters) -> Answer:
    """A file that is uploaded now, or one that has a fileId already."""
    file_id = _file(world, given)
    payload = {"fileId": file_id, **({"caption": given.text("caption")} if given.optional("caption") else {})}
    message = _sent(world, given, given.optional("caption") or "", {"type": "file", "payload": payload})
    return {"msgId": message["msgId"], "fileId": file_id}


def send_voice(world: World, given: Parameters) -> Answer:
    """A voice message."""
    file_id = _file(world, given)
    message = _sent(world, given, "", {"type": "voice", "payload": {"fileId": file_id}})
    return {"msgId": message["msgId"], "fileId": file_id}


def edit_text(world: World, given: Parameters) -> Answer:
    """Another text for one of the bot's own messages."""
    message = world.message(given.text("chatId"), given.text("msgId"))
    _own(world, message)
    _check_formatting(given)
    message.update(text=given.text("text"), editedTimestamp=int(time.time()))
    return {}


def delete_messages(world: World, given: Parameters) -> Answer:
    """Take messages away: all of them, or none where one is unknown."""
    chat_id, msg_ids = given.text("chatId"), given.all("msgId") or [given.text("msgId")]
    for msg_id in msg_ids:
        world.message(chat_id, msg_id)
    for msg_id in msg_ids:
        world.messages.pop((chat_id, msg_id), None)
    return {}


def answer_callback_query(world: World, given: Parameters) -> Answer:
    """What the person who pressed a button gets to see."""
    if given.text("queryId") not in world.queries:
        raise Refused("Bad request: unknown queryId")
    return {}


def get_info(world: World, given: Parameters) -> Answer:
    """What a chat is."""
    chat = world.known_chat(given.text("chatId"))
    if chat.type == "private":
        names = {key: value for key, value in world.user(chat.chat_id).items() if key != "userId"}
        return {"type": "private", **names, "about": chat.about, "isBot": False}
    return {
        "type": chat.type, "title": chat.title, "about": chat.about, "rules": "", "public": False,
        "joinModeration": False, "inviteLink": f"https://simulator.example/join/{chat.chat_id.partition('@')[0]}",
    }  # fmt: skip


def get_members(world: World, given: Parameters) -> Answer:
    """Who is in a chat, page by page."""
    members = [_member(user_id, role) for user_id, role in _group(world, given).members.items()]
    start = given.count("cursor", 0)
    more = {"cursor": str(start + PAGE)} if start + PAGE < len(members) else {}
    return {"members": members[start : start + PAGE], **more}


def get_admins(world: World, given: Parameters) -> Answer:
    """Who steers a chat."""
    roles = _group(world, given).members.items()
    creators = [{"userId": user_id, "creator": role == "creator"} for user_id, role in roles if role != "member"]
    return {"admins": creators}


def send_actions(world: World, given: Parameters) -> Answer:
    """That the bot looks or types; no action says that it stopped."""
    given.text("chatId")
    if not set(given.all("actions")) <= {"looking", "typing"}:
        raise Refused("Bad request: unknown action")
    return {}


def pin_message(world: World, given: Parameters) -> Answer:
    """Pin a message."""
    chat, msg_id = world.known_chat(given.text("chatId")), given.text("msgId")
    world.message(chat.chat_id, msg_id)
    chat.pinned = [*(pinned for pinned in chat.pinned if pinned != msg_id), msg_id]
    return {}


def unpin_message(world: World, given: Parameters) -> Answer:
    """Take a pin away."""
    chat, msg_id = world.known_chat(given.text("chatId")), given.text("msgId")
    world.message(chat.chat_id, msg_id)
    chat.pinned = [pinned for pinned in chat.pinned if pinned != msg_id]
    return {}


def file_info(world: World, given: Parameters) -> Answer:
    """What a file is, and where it can be fetched; `url` is completed by the server."""
    file_id = given.text("fileId")
    upload = world.files.get(file_id)
    if upload is None:
        raise Refused("Bad request: unknown fileId")
    kind = upload.type.partition("/")[0]
    return {
        "type": kind if kind in ("image", "video", "audio") else "file",
        "size": len(upload.content), "filename": upload.name, "url": f"/files/{urlquote(file_id, safe='')}",
    }  # fmt: skip


def add_thread(world: World, given: Parameters) -> Answer:
    """Open a thread at a message: a chat of its own."""
    chat_id, msg_id = given.text("chatId"), given.text("msgId")
    world.message(chat_id, msg_id)
    digits = int.from_bytes(hashlib.sha256(f"{chat_id} {msg_id}".encode()).digest()[:4], "big")
    thread = world.chat(f"{digits}@chat.agent", "group")
    number = whole_number(msg_id)
    thread.topic = {"chatId": chat_id, "messageId": msg_id if number is None else number, "type": "message"}
    return {"threadId": thread.chat_id}


METHODS: dict[str, Callable[[World, Parameters], Answer]] = {
    "self/get": self_get,
    "messages/sendText": send_text,
    "messages/editText": edit_text,
    "messages/deleteMessages": delete_messages,
    "messages/sendFile": send_file,
    "messages/sendVoice": send_voice,
    "messages/answerCallbackQuery": answer_callback_query,
    "chats/getInfo": get_info,
    "chats/getMembers": get_members,
    "chats/getAdmins": get_admins,
    "chats/sendActions": send_actions,
    "chats/pinMessage": pin_message,
    "chats/unpinMessage": unpin_message,
    "files/getInfo": file_info,
    "threads/add": add_thread,
}


def known(method: str) -> bool:
    """Whether the API has such a method."""
    return method == POLL or method in METHODS


def _sent(world: World, given: Parameters, text: str | None, *parts: dict[str, Any]) -> dict[str, Any]:
    """A new message of the bot's."""
    chat_id = given.text("chatId")
    _check_formatting(given)
    shown = [*parts, *_quotes(world, given, chat_id)]
    if keyboard := given.json("inlineKeyboardMarkup", list):
        shown.append({"type": "inlineKeyboardMarkup", "payload": keyboard})
    if text is None and not given.all("forwardMsgId"):
        raise Refused("Missing required parameter 'text'")
    message = {
        "msgId": world.new_msg_id(), "chat": world.chat(chat_id).shown(), "from": dict(world.bot),
        "timestamp": int(time.time()), "text": text or "", **({"parts": shown} if shown else {}),
    }  # fmt: skip
    world.remember(message)
    return message


def _quotes(world: World, given: Parameters, chat_id: str) -> list[dict[str, Any]]:
    replies, forwards, source = given.all("replyMsgId"), given.all("forwardMsgId"), given.optional("forwardChatId")
    if bool(forwards) != bool(source):
        raise Refused("Bad request: forwardChatId and forwardMsgId go together")
    if forwards and replies:
        raise Refused("Bad request: a message is a reply or a forward")
    quoted = [quote("reply", world.message(chat_id, msg_id)) for msg_id in replies]
    return quoted + [quote("forward", world.message(source or "", msg_id)) for msg_id in forwards]


def quote(kind: str, message: dict[str, Any]) -> dict[str, Any]:
    """The part that shows a message as replied to, or as forwarded."""
    shown = {key: message[key] for key in ("msgId", "from", "text", "timestamp", "parts") if key in message}
    if isinstance(shown.get("parts"), list):
        # What it quotes itself is not shown again: each reply of a chain would hold all those before it.
        shown["parts"] = [part for part in shown["parts"] if not _is_quote(part)]
    if not shown.get("parts"):
        shown.pop("parts", None)
    return {"type": kind, "payload": {"message": shown}}


def _is_quote(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") in ("reply", "forward")


def _file(world: World, given: Parameters) -> str:
    if upload := next(iter(given.files.values()), None):
        file_id = hashlib.sha256(upload.content + upload.name.encode()).hexdigest()[:32]
        world.keep(file_id, upload)
        return file_id
    file_id = given.text("fileId")
    if file_id not in world.files:
        raise Refused("Bad request: unknown fileId")
    return file_id


def _check_formatting(given: Parameters) -> None:
    if given.optional("parseMode") not in (None, "MarkdownV2", "HTML"):
        raise Refused("Bad request: unknown parseMode")
    if given.json("format", dict) and given.optional("parseMode"):
        raise Refused("Bad request: format and parseMode exclude each other")


def _own(world: World, message: dict[str, Any]) -> None:
    author = message.get("from")
    if not isinstance(author, dict) or author.get("userId") != world.bot["userId"]:
        raise Refused("Permission denied")


def _group(world: World, given: Parameters) -> Chat:
    chat = world.known_chat(given.text("chatId"))
    if chat.type == "private":
        raise Refused("Bad request: it is a private chat")
    return chat


def _member(user_id: str, role: str) -> dict[str, Any]:
    if role == "creator":
        return {"userId": user_id, "creator": True, "admin": True}
    return {"userId": user_id, "admin": True} if role == "admin" else {"userId": user_id}
