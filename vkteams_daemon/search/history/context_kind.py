"""Which kind of context a question asks for: the kind that it names, or the one that its arguments imply."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from vkteams_daemon.errors import UsageError
from vkteams_daemon.search.history.results import Kind

RECENT = timedelta(hours=2)
"""The timeframe of `recent`, if neither a timeframe nor a beginning is given."""

_ACCEPTED_BY: dict[str, tuple[Kind, ...]] = {
    "msg_id": ("around",),
    "query": ("topic",),
    "user_id": ("topic", "user-profile"),
    "timeframe": ("recent", "topic", "user-profile"),
}
_NEEDS: dict[Kind, str] = {"topic": "query", "user-profile": "user_id", "around": "msg_id"}


def resolve_kind(
    kind: Kind | None, arguments: Mapping[str, object], names: Mapping[str, str] | None = None, hint: str = ""
) -> Kind:
    """The kind that is named or, without a name, `around` with msg_id, `topic` with query, otherwise `recent`.

    Args:
        kind: the kind by name; None if the question names none.
        arguments: msg_id, query, user_id and timeframe; None for an argument that the question leaves out.
        names: what the messages call these arguments, if not by their own names.
        hint: the hint of the errors; without one, the hint names the argument `context_type`.

    Raises:
        UsageError: the kind does not use one of the arguments, so the answer would be to another question; or the kind
            needs an argument that is left out.
    """
    kind = kind or ("around" if arguments["msg_id"] is not None else "topic" if arguments["query"] else "recent")
    for name, kinds in _ACCEPTED_BY.items():
        if arguments[name] is not None and kind not in kinds:
            raise UsageError(
                f"the context {kind} does not use {(names or {}).get(name, name)}",
                hint=hint or f"Leave it out, or ask for the context_type {' or '.join(kinds)}.",
            )
    require_argument(kind, arguments, names, hint)
    return kind


def require_argument(
    kind: Kind, arguments: Mapping[str, object], names: Mapping[str, str] | None = None, hint: str = ""
) -> None:
    """Refuse a question without the argument that its kind needs; the parameters are those of `resolve_kind`.

    Raises:
        UsageError: the argument is left out, or blank.
    """
    needed = _NEEDS.get(kind)
    if needed and not str(arguments[needed] or "").strip():
        raise UsageError(f"the context {kind} needs {(names or {}).get(needed, needed)}", hint=hint)
