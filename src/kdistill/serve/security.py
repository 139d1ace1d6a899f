"""Who may ask, and what a browser may do with the answer. Pure ASGI, so that streams stay streams."""

from __future__ import annotations

import logging
import re
import secrets
import time
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse

from kdistill.explain.explanation import NOTICE
from kdistill.serve.config import is_loopback
from kdistill.serve.page_files import PAGE_FILES

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE: Final = "kdistill_session"
#: Answered without a token: what a load balancer asks, and the page itself, which holds nothing of anybody.
OPEN: Final = frozenset({"/healthz", "/readyz", "/v1/session", *PAGE_FILES})
_MAX_SESSIONS: Final = 10_000
_SESSION_S: Final = 12 * 3600.0
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-ancestors 'self'; base-uri 'none'; form-action 'none'"
)


_SESSION: Final = re.compile(r"[A-Za-z0-9_-]{32}")


def new_session() -> str:
    """A name that nobody can guess."""
    return secrets.token_urlsafe(24)


def is_session(name: str) -> bool:
    """Whether a cookie can be one of ours: any other, which may be short enough to guess, is replaced."""
    return _SESSION.fullmatch(name) is not None


class Sessions:
    """Which sessions have shown the token, so that a browser can load pages and pictures, which carry no header.

    Args:
        token: The token; None on loopback, where every session may ask.
        clock: Seconds that only go forward; replaced in tests.
    """

    def __init__(self, token: str | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._token, self._clock = token, clock
        #: Each with the time at which it showed the token, the oldest first.
        self._known: dict[str, float] = {}

    @property
    def needs_token(self) -> bool:
        """Whether anything has to be shown."""
        return self._token is not None

    def is_token(self, authorization: str) -> bool:
        """Whether the header `Authorization: Bearer TOKEN` names the token."""
        scheme, _, given = authorization.partition(" ")
        right = self._token or ""
        return scheme.lower() == "bearer" and secrets.compare_digest(given.encode(), right.encode()) and bool(right)

    def admit(self, session: str) -> None:
        """Remember for half a day that this session has shown the token; the oldest of very many is forgotten."""
        self._known[session] = self._clock()
        if len(self._known) > _MAX_SESSIONS:
            del self._known[next(iter(self._known))]

    def may_ask(self, headers: Headers, session: str | None) -> bool:
        """Whether a request shows the token, or comes from a session that did."""
        shown = self._known.get(session or "")
        is_known = shown is not None and self._clock() - shown < _SESSION_S
        return not self.needs_token or is_known or self.is_token(headers.get("authorization", ""))


class Guard:
    """Checks host, origin and token of a request, and puts the safety headers on every answer.

    Args:
        app: What is guarded.
        sessions: Who has shown the token.
    """

    def __init__(self, app: App, sessions: Sessions) -> None:
        self._app, self._sessions = app, sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        has_begun = False

        async def guarded(message: MutableMapping[str, Any]) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                _add_headers(MutableHeaders(scope=message), scope["path"])
            await send(message)

        request = Request(scope)
        answer = self._refusal(request) or self._app
        try:
            await answer(scope, receive, guarded)
        except Exception as error:
            # A server that prints the traceback would print what stands in the image's header with it.
            where = [f"{frame.name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)][-6:]
            logger.error("a request failed (%s in %s)", type(error).__name__, " > ".join(where))
            if has_begun:
                raise _Torn from None
            await JSONResponse({"detail": "the server failed"}, 500)(scope, receive, guarded)

    def _refusal(self, request: Request) -> App | None:
        headers, path = request.headers, request.scope["path"]
        if "transfer-encoding" in headers and "content-length" in headers:
            # Two lengths: a proxy may have believed the other one, and take the rest for a request of its own.
            return JSONResponse({"detail": "two lengths are given"}, 400, {"Connection": "close"})
        is_entered = request.method == "GET" and path == "/" and headers.get("sec-fetch-mode") == "navigate"
        if not is_entered and is_cross_site(headers):
            return _another_site()
        if not (self._sessions.needs_token or _names_this_machine(headers)):
            return _another_site()
        if path in OPEN or self._sessions.may_ask(headers, request.cookies.get(COOKIE)):
            return None
        answer = {"detail": "a token is needed: Authorization: Bearer TOKEN"}
        return JSONResponse(answer, 401, {"WWW-Authenticate": "Bearer"})


class _Torn(Exception):
    """An answer that has begun cannot be taken back: the connection is closed."""


def _another_site() -> App:
    return JSONResponse({"detail": "a request from another site is refused"}, 403)


def is_cross_site(headers: Headers) -> bool:
    """Whether a browser says that a page of another site started the request: it has no business here.

    Another port of this machine is the "same site" to a browser, which sends the cookie along: it is refused too.
    """
    origin = headers.get("origin")
    if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        return True
    try:
        return origin is not None and urlsplit(origin).netloc != headers.get("host")
    except ValueError:
        return True


def _names_this_machine(headers: Headers) -> bool:
    """Without a token only names of this machine are answered: another site's name could point here (DNS rebinding)."""
    try:
        host = urlsplit(f"//{headers.get('host', '')}").hostname
    except ValueError:
        return False
    return host is not None and is_loopback(host)


def _add_headers(headers: MutableHeaders, path: str) -> None:
    headers["X-Content-Type-Options"] = "nosniff"
    headers["X-Frame-Options"] = "SAMEORIGIN"
    headers["Referrer-Policy"] = "no-referrer"
    headers["Cross-Origin-Resource-Policy"] = "same-origin"
    headers["Cache-Control"] = "no-store"
    headers["X-Notice"] = NOTICE.split(".")[0]
    # An explanation's page brings a stricter policy of its own, by hash, which a second one of 'self' would break.
    headers["Content-Security-Policy"] = "frame-ancestors 'self'" if path.endswith("/html") else _POLICY
