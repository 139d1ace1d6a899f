"""Who may ask, and what a browser may do with the answer. Pure ASGI, so that streams stay streams."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse

from kdistill.explain.explanation import NOTICE
from kdistill.serve.config import is_loopback

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE: Final = "kdistill_session"
#: Answered without a token: what a load balancer asks, and the page itself, which holds nothing of anybody.
_PAGE: Final = frozenset({f"/page/{name}" for name in ("app.js", "app.css", "counterfactual.js", "counterfactual.css")})
_OPEN: Final = frozenset({"/healthz", "/readyz", "/", "/v1/session", *_PAGE})
_MAX_SESSIONS: Final = 10_000
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-src 'self'; frame-ancestors 'self'; base-uri 'none'; form-action 'none'"
)


class Sessions:
    """Which sessions have shown the token, so that a browser can load pages and pictures, which carry no header.

    Args:
        token: The token; None on loopback, where every session may ask.
    """

    def __init__(self, token: str | None) -> None:
        self._token = token
        self._known: dict[str, None] = {}

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
        """Remember that this session has shown the token; the oldest of very many is forgotten."""
        self._known[session] = None
        if len(self._known) > _MAX_SESSIONS:
            del self._known[next(iter(self._known))]

    def may_ask(self, headers: Headers, session: str | None) -> bool:
        """Whether a request shows the token, or comes from a session that did."""
        return not self.needs_token or session in self._known or self.is_token(headers.get("authorization", ""))


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

        async def guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                _add_headers(MutableHeaders(scope=message), scope["path"])
            await send(message)

        refusal = self._refusal(Request(scope))
        await (refusal or self._app)(scope, receive, guarded)

    def _refusal(self, request: Request) -> App | None:
        headers, path = request.headers, request.scope["path"]
        if is_cross_site(headers) or not (self._sessions.needs_token or _names_this_machine(headers)):
            return JSONResponse({"detail": "a request from another site is refused"}, 403)
        if path in _OPEN or self._sessions.may_ask(headers, request.cookies.get(COOKIE)):
            return None
        answer = {"detail": "a token is needed: Authorization: Bearer TOKEN"}
        return JSONResponse(answer, 401, {"WWW-Authenticate": "Bearer"})


def is_cross_site(headers: Headers) -> bool:
    """Whether a browser says that a page of another site started the request: it has no business here."""
    origin = headers.get("origin")
    if headers.get("sec-fetch-site") == "cross-site":
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
