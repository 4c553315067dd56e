"""The addresses of the page that sign a person in and out, by OpenID Connect."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TypeVar

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from vkteams_daemon.serving.audit import Audit, Call
from vkteams_daemon.serving.issuer import SignInRefused
from vkteams_daemon.web.attempt_limit import AttemptLimit
from vkteams_daemon.web.cookies import Cookies, local_path
from vkteams_daemon.web.oidc import Attempt, SignIn
from vkteams_daemon.web.session import new_session
from vkteams_daemon.web.visitor import Admission

T = TypeVar("T")

_ATTEMPT_AGE = 600  # seconds that a person may take to sign in
_LASTS = 12 * 3600  # seconds after which one signs in again
_PURPOSE = "sign-in"


class SignInPages:
    """Signs people in.

    Args:
        provider: the page as a client of the issuer.
        cookies: reads and writes the cookies.
        admission: knows whose address a request has.
        audit: writes a line for every sign-in.
        refuse: makes the page that says why nobody was signed in; takes the request, a status and a sentence.
    """

    def __init__(
        self, provider: SignIn, cookies: Cookies, admission: Admission, audit: Audit,
        refuse: Callable[[Request, int, str], Response],
    ) -> None:  # fmt: skip
        self._provider = provider
        self._cookies = cookies
        self._admission = admission
        self._audit = audit
        self._refuse = refuse
        self._limit = AttemptLimit()

    async def begin(self, request: Request) -> Response:
        """Lead the person to the issuer."""
        if self._limit.is_reached(self._admission.client(request)):
            return self._refuse(request, 429, "there were too many attempts to sign in: wait ten minutes")
        back = local_path(request.query_params.get("back", "/"))[:1000]
        try:
            url, attempt = await _in_thread(lambda: self._provider.begin(back))
        except SignInRefused as error:
            return self._refused(request, error)
        answer = RedirectResponse(url, 303, headers={"cache-control": "no-store"})
        sealed = {**asdict(attempt), "until": int(time.time()) + _ATTEMPT_AGE}
        self._cookies.set(answer, request, _PURPOSE, self._cookies.sessions.seal(_PURPOSE, sealed), _ATTEMPT_AGE)
        return answer

    async def finish(self, request: Request) -> Response:
        """Take over what the issuer says, and go where the person wanted to."""
        if self._limit.is_reached(self._admission.client(request)):
            return self._refuse(request, 429, "there were too many attempts to sign in: wait ten minutes")
        sealed = self._cookies.sessions.unseal(_PURPOSE, self._cookies.get(request, _PURPOSE))
        if sealed is None or sealed.pop("until") < time.time():
            return self._refused(
                request, SignInRefused("this sign-in was not begun here, or too long ago: begin again")
            )
        attempt = Attempt(**sealed)
        try:
            user = await _in_thread(lambda: self._provider.finish(attempt, dict(request.query_params)))
        except SignInRefused as error:
            return self._refused(request, error)
        self._audit.write(Call(user, None, "sign-in", {}))
        answer = RedirectResponse(local_path(attempt.back), 303, headers={"cache-control": "no-store"})
        self._cookies.delete(answer, request, _PURPOSE)
        # A new id: a form that was made before belongs to nobody now.
        old = self._cookies.session(request) or new_session()
        session = replace(
            new_session(), language=old.language, theme=old.theme, user=user, until=int(time.time()) + _LASTS
        )
        self._cookies.give(answer, request, session)
        return answer

    def _refused(self, request: Request, error: SignInRefused) -> Response:
        call = Call(self._admission.client(request), None, "sign-in", {}, outcome="refused", error=str(error))
        self._audit.write(call)
        return self._refuse(request, 403, str(error))


async def _in_thread(question: Callable[[], T]) -> T:
    return await anyio.to_thread.run_sync(question, abandon_on_cancel=True)
