"""Which kind of context is meant: by its name or, as with `vkteamsctl context get`, by what is given with it."""

from __future__ import annotations

from typing import Literal

from vkteams_daemon.errors import UsageError

Kind = Literal["recent", "topic", "user-profile", "around"]

_TOLD_BY: dict[str, tuple[Kind, ...]] = {
    "msg_id": ("around",),
    "query": ("topic",),
    "user_id": ("topic", "user-profile"),
    "timeframe": ("recent", "topic", "user-profile"),
}
_NEEDS = {"topic": "query", "user-profile": "user_id", "around": "msg_id"}


def meant(named: Kind | None, **given: object) -> Kind:
    """The kind that is meant.

    Args:
        named: the kind that the client names, if it does.
        given: the arguments msg_id, query, user_id and timeframe; None where one is left out.

    Raises:
        UsageError: an argument says nothing about this kind, and the answer would be to another question than the
            client's; or the kind needs one that is left out.
    """
    kind: Kind = named or ("around" if given["msg_id"] else "topic" if given["query"] else "recent")
    for name, kinds in _TOLD_BY.items():
        if given[name] is not None and kind not in kinds:
            raise UsageError(
                f"{name} says nothing about the context {kind}",
                hint=f"Leave it out, or ask for the context_type {' or '.join(kinds)}.",
            )
    needed = _NEEDS.get(kind)
    if needed and given[needed] is None:
        raise UsageError(f"the context {kind} needs {needed}")
    return kind
