"""Every method of the Bot API except events/get. The actions of a bot cause no events."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote as urlquote

from vkteams_daemon.simulator.parameters import Parameters, Refused, whole_number
from vkteams_daemon.simulator.world import Chat, World

Fields = dict[str, Any]
POLL = "events/get"
PAGE = 100  # members in one answer of chats/getMembers


def self_get(world: World, parameters: Parameters) -> Fields:
    """Who the bot is."""
    return dict(world.bot)


def send_text(world: World, parameters: Parameters) -> Fields:
    """Send a text, a reply, or a forward."""
    return {"msgId": _send(world, parameters, parameters.optional("text"))["msgId"]}


def send_file(world: World, parameters: Parameters) -> Fields:
    """Send a file: an upload, or one that has a fileId already."""
    file_id = _file(world, parameters)
    payload = {"fileId": file_id, **({"caption": parameters.text("caption")} if parameters.optional("caption") else {})}
    message = _send(world, parameters, parameters.optional("caption") or "", {"type": "file", "payload": payload})
    return {"msgId": message["msgId"], "fileId": file_id}


def send_voice(world: World, parameters: Parameters) -> Fields:
    """Send a voice message."""
    file_id = _file(world, parameters)
    message = _send(world, parameters, "", {"type": "voice", "payload": {"fileId": file_id}})
    return {"msgId": message["msgId"], "fileId": file_id}


def edit_text(world: World, parameters: Parameters) -> Fields:
    """Change the text of one of the bot's own messages."""
    message = world.message(parameters.text("chatId"), parameters.text("msgId"))
    _check_own(world, message)
    _check_formatting(parameters)
    message.update(text=parameters.text("text"), editedTimestamp=int(time.time()))
    return {}


def delete_messages(world: World, parameters: Parameters) -> Fields:
    """Delete messages: all of them, or none if one is unknown."""
    chat_id, msg_ids = parameters.text("chatId"), parameters.all("msgId") or [parameters.text("msgId")]
    for msg_id in msg_ids:
        world.message(chat_id, msg_id)
    for msg_id in msg_ids:
        world.messages.pop((chat_id, msg_id), None)
    return {}


def answer_callback_query(world: World, parameters: Parameters) -> Fields:
    """Answer a person who pressed a button."""
    if parameters.text("queryId") not in world.queries:
        raise Refused("Bad request: unknown queryId")
    return {}


def get_info(world: World, parameters: Parameters) -> Fields:
    """Describe a chat."""
    chat = world.existing_chat(parameters.text("chatId"))
    if chat.type == "private":
        names = {key: value for key, value in world.user(chat.chat_id).items() if key != "userId"}
        return {"type": "private", **names, "about": chat.about, "isBot": False}
    return {
        "type": chat.type, "title": chat.title, "about": chat.about, "rules": "", "public": False,
        "joinModeration": False, "inviteLink": f"https://simulator.example/join/{chat.chat_id.partition('@')[0]}",
    }  # fmt: skip


def get_members(world: World, parameters: Parameters) -> Fields:
    """List the members of a chat, page by page."""
    members = [_member(user_id, role) for user_id, role in _group(world, parameters).members.items()]
    start = parameters.count("cursor", 0)
    more = {"cursor": str(start + PAGE)} if start + PAGE < len(members) else {}
    return {"members": members[start : start + PAGE], **more}


def get_admins(world: World, parameters: Parameters) -> Fields:
    """List the admins of a chat, the creator among them."""
    roles = _group(world, parameters).members.items()
    admins = [{"userId": user_id, "creator": role == "creator"} for user_id, role in roles if role != "member"]
    return {"admins": admins}


def send_actions(world: World, parameters: Parameters) -> Fields:
    """Show that the bot looks or types; no action means that it stopped."""
    parameters.text("chatId")
    if not set(parameters.all("actions")) <= {"looking", "typing"}:
        raise Refused("Bad request: unknown action")
    return {}


def pin_message(world: World, parameters: Parameters) -> Fields:
    """Pin a message."""
    chat, msg_id = world.existing_chat(parameters.text("chatId")), parameters.text("msgId")
    world.message(chat.chat_id, msg_id)
    chat.pinned = [*(pinned for pinned in chat.pinned if pinned != msg_id), msg_id]
    return {}


def unpin_message(world: World, parameters: Parameters) -> Fields:
    """Unpin a message."""
    chat, msg_id = world.existing_chat(parameters.text("chatId")), parameters.text("msgId")
    world.message(chat.chat_id, msg_id)
    chat.pinned = [pinned for pinned in chat.pinned if pinned != msg_id]
    return {}


def file_info(world: World, parameters: Parameters) -> Fields:
    """Describe a file. `url` is only a path: the caller completes it with the server's address."""
    file_id = parameters.text("fileId")
    upload = world.files.get(file_id)
    if upload is None:
        raise Refused("Bad request: unknown fileId")
    kind = upload.type.partition("/")[0]
    return {
        "type": kind if kind in ("image", "video", "audio") else "file",
        "size": len(upload.content), "filename": upload.name, "url": f"/files/{urlquote(file_id, safe='')}",
    }  # fmt: skip


def add_thread(world: World, parameters: Parameters) -> Fields:
    """Open a thread at a message. A thread is a chat of its own."""
    chat_id, msg_id = parameters.text("chatId"), parameters.text("msgId")
    world.message(chat_id, msg_id)
    digits = int.from_bytes(hashlib.sha256(f"{chat_id} {msg_id}".encode()).digest()[:4], "big")
    thread = world.chat(f"{digits}@chat.agent", "group")
    number = whole_number(msg_id)
    thread.topic = {"chatId": chat_id, "messageId": msg_id if number is None else number, "type": "message"}
    return {"threadId": thread.chat_id}


METHODS: dict[str, Callable[[World, Parameters], Fields]] = {
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


def is_method(method: str) -> bool:
    """Whether the Bot API has this method."""
    return method == POLL or method in METHODS


def _send(world: World, parameters: Parameters, text: str | None, *parts: dict[str, Any]) -> dict[str, Any]:
    """A new message from the bot; remembered, and returned."""
    chat_id = parameters.text("chatId")
    _check_formatting(parameters)
    all_parts = [*parts, *_quotes(world, parameters, chat_id)]
    if keyboard := parameters.json("inlineKeyboardMarkup", list):
        all_parts.append({"type": "inlineKeyboardMarkup", "payload": keyboard})
    if text is None and not parameters.all("forwardMsgId"):
        raise Refused("Missing required parameter 'text'")
    message = {
        "msgId": world.new_msg_id(), "chat": world.chat(chat_id).to_json(), "from": dict(world.bot),
        "timestamp": int(time.time()), "text": text or "", **({"parts": all_parts} if all_parts else {}),
    }  # fmt: skip
    world.remember(message)
    return message


def _quotes(world: World, parameters: Parameters, chat_id: str) -> list[dict[str, Any]]:
    replies, forwards, source = (
        parameters.all("replyMsgId"),
        parameters.all("forwardMsgId"),
        parameters.optional("forwardChatId"),
    )
    if bool(forwards) != bool(source):
        raise Refused("Bad request: forwardChatId and forwardMsgId go together")
    if forwards and replies:
        raise Refused("Bad request: a message is a reply or a forward")
    parts = [quote("reply", world.message(chat_id, msg_id)) for msg_id in replies]
    return parts + [quote("forward", world.message(source or "", msg_id)) for msg_id in forwards]


def quote(kind: str, message: dict[str, Any]) -> dict[str, Any]:
    """The part of type `kind` (reply or forward) that quotes a message."""
    fields = {key: message[key] for key in ("msgId", "from", "text", "timestamp", "parts") if key in message}
    if isinstance(fields.get("parts"), list):
        # Leave out the quotes inside the quote. Otherwise each reply of a chain would contain all those before it.
        fields["parts"] = [part for part in fields["parts"] if not _is_quote(part)]
    if not fields.get("parts"):
        fields.pop("parts", None)
    return {"type": kind, "payload": {"message": fields}}


def _is_quote(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") in ("reply", "forward")


def _file(world: World, parameters: Parameters) -> str:
    if upload := next(iter(parameters.files.values()), None):
        file_id = hashlib.sha256(upload.content + upload.name.encode()).hexdigest()[:32]
        world.add_file(file_id, upload)
        return file_id
    file_id = parameters.text("fileId")
    if file_id not in world.files:
        raise Refused("Bad request: unknown fileId")
    return file_id


def _check_formatting(parameters: Parameters) -> None:
    if parameters.optional("parseMode") not in (None, "MarkdownV2", "HTML"):
        raise Refused("Bad request: unknown parseMode")
    if parameters.json("format", dict) and parameters.optional("parseMode"):
        raise Refused("Bad request: format and parseMode exclude each other")


def _check_own(world: World, message: dict[str, Any]) -> None:
    author = message.get("from")
    if not isinstance(author, dict) or author.get("userId") != world.bot["userId"]:
        raise Refused("Permission denied")


def _group(world: World, parameters: Parameters) -> Chat:
    chat = world.existing_chat(parameters.text("chatId"))
    if chat.type == "private":
        raise Refused("Bad request: it is a private chat")
    return chat


def _member(user_id: str, role: str) -> dict[str, Any]:
    if role == "creator":
        return {"userId": user_id, "creator": True, "admin": True}
    return {"userId": user_id, "admin": True} if role == "admin" else {"userId": user_id}
