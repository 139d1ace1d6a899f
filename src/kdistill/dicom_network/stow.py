"""STOW-RS: objects as one multipart request to a DICOMweb service.

Written out here, about a page long: the HTTP client is a dependency already, a DICOMweb library would bring another.
Source: DICOM PS3.18 10.5 (store transaction), 8.6.1.2.1 (multipart/related), I.2 (Store Instances Response: Failed SOP
Sequence 0008,1198, Failure Reason 0008,1197), F.2 (JSON model).
"""

from __future__ import annotations

import json
import os
import secrets
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from kdistill import __version__
from kdistill.dicom_network.config import SendConfig, TlsFiles, WebTarget
from kdistill.dicom_network.parts import DUPLICATE, SLOWEST_BYTES_PER_S, Outcome, Part, fate_of
from kdistill.dicom_network.tls import client_context, reason_of
from kdistill.errors import ConfigError, PolicyError
from kdistill.serve.config import is_loopback

TOKEN, USER, PASSWORD = "KDISTILL_DICOM_TOKEN", "KDISTILL_DICOM_USER", "KDISTILL_DICOM_PASSWORD"
#: Busy, or broken for the moment.
_AGAIN: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
#: An answer names each object; 32 objects take some kilobytes.
_MAX_ANSWER_BYTES: Final = 4_000_000


class WebDestination:
    """A DICOMweb service. Credentials come from the environment only.

    Args:
        target: Its address.
        config: Times and certificates.

    Raises:
        PolicyError: Credentials would travel unencrypted to another machine; or others can read our key.
        ConfigError: A user without a password, or a password without a user; or a certificate cannot be used.
    """

    def __init__(self, target: WebTarget, config: SendConfig) -> None:
        parts = urlsplit(target.url)
        here = is_loopback(parts.hostname or "")
        self._url = target.url.rstrip("/")
        self._url += "" if self._url.endswith("/studies") else "/studies"
        headers, login = _credentials()
        if (headers or login) and parts.scheme == "http" and not here:
            raise PolicyError(
                "would send a password or token unencrypted to another machine", where="--to", remedy="Use https."
            )
        self._timeout_s = config.timeout_s
        self._options: dict[str, Any] = {
            "headers": {"User-Agent": f"kdistill/{__version__}", **headers},
            "auth": login,
            "timeout": config.timeout_s,
            "follow_redirects": False,  # objects and credentials go where they were sent, and nowhere else
            "trust_env": not here,
        }
        if config.tls_files != TlsFiles():
            self._options["verify"] = client_context(config.tls_files)

    def deliver(self, parts: Sequence[Part]) -> list[Outcome]:
        """See `Destination`."""
        boundary = secrets.token_hex(16)
        headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Accept": "application/dicom+json",
        }
        body = multipart(parts, boundary)
        seconds = self._timeout_s + len(body) / SLOWEST_BYTES_PER_S
        with httpx.Client(**self._options) as client, _closed_after(client, seconds):
            try:
                with client.stream("POST", self._url, content=body, headers=headers) as answer:
                    return outcomes(parts, answer.status_code, _text_of(answer))
            except (httpx.HTTPError, OSError) as error:
                why = f"the service cannot be reached, or broke off ({type(error).__name__})"
                if isinstance(cause := _tls_error(error), OSError):
                    why = f"the service cannot be spoken to over TLS: {reason_of(cause)}"
                return [Outcome("again", why)] * len(parts)


@contextmanager
def _closed_after(client: httpx.Client, seconds: float) -> Iterator[None]:
    """Close a client that is busy for too long: its own time limit is one for each read and write."""
    timer = threading.Timer(seconds, client.close)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _text_of(answer: httpx.Response) -> bytes | None:
    """An answer's body; None where it is too long for a list of 32 objects."""
    found = bytearray()
    for chunk in answer.iter_bytes():
        found += chunk
        if len(found) > _MAX_ANSWER_BYTES:
            return None
    return bytes(found)


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """What TLS said, below what httpx and httpcore make of it."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error


def multipart(parts: Sequence[Part], boundary: str) -> bytes:
    """The body: one section for each file, nothing around them."""
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode("ascii")
    return b"".join(head + part.data + b"\r\n" for part in parts) + f"--{boundary}--\r\n".encode("ascii")


def outcomes(parts: Sequence[Part], code: int, answer: bytes | None) -> list[Outcome]:
    """What an answer says of each object (PS3.18 Table 10.5.3-1)."""
    if code in _AGAIN:
        return [Outcome("again", f"HTTP {code}")] * len(parts)
    if not (200 <= code < 300 or code == 409):
        return [Outcome("refused", f"HTTP {code}")] * len(parts)
    failed = _failed(answer)
    if failed is None and code == 202:
        return [Outcome("refused", "HTTP 202 without a readable list of what was not stored")] * len(parts)
    failed = failed or {}
    if code == 409:
        return [_refusal(failed.get(part.instance, 0x0110)) for part in parts]
    return [_refusal(failed[part.instance]) if part.instance in failed else Outcome("delivered") for part in parts]


def _refusal(reason: int) -> Outcome:
    fate = fate_of(reason)
    is_told_true = fate != "delivered" or reason == DUPLICATE
    return Outcome(fate if is_told_true else "refused", f"failure reason 0x{reason:04X}")


def _failed(answer: bytes | None) -> dict[str, int] | None:
    """Instance UID -> failure reason of each object that was not stored; None where the answer cannot be read."""
    try:
        found: Any = json.loads(answer or b"")
        items = (found[0] if isinstance(found, list) else found).get("00081198", {}).get("Value", [])
        return {str(item["00081155"]["Value"][0]): int(item["00081197"]["Value"][0]) for item in items}
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return None


def _credentials() -> tuple[dict[str, str], httpx.Auth | None]:
    token, user, password = (os.environ.get(name) for name in (TOKEN, USER, PASSWORD))
    if (user is None) != (password is None):
        raise ConfigError("only one of the two is set", where=f"{USER}, {PASSWORD}", remedy="Set both, or neither.")
    if token is not None and user is not None:
        raise ConfigError("a token and a user are set", where=f"{TOKEN}, {USER}", remedy="Unset one of them.")
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    return headers, httpx.BasicAuth(user, password) if user is not None and password is not None else None
