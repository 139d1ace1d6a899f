"""TLS for DICOM: contexts from certificate files, a handshake that ends in time, reasons that a person can act on.

What is agreed on: TLS 1.3 or 1.2, elliptic Diffie-Hellman, AES-GCM or ChaCha20; nothing older, no compression, no
renegotiation, no fall back to plain. A key that every user of the machine can read is refused.

Source: DICOM PS3.15 B.12 (BCP 195: RFC 8996, RFC 9325 4.2).
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from kdistill.dicom_network.config import TlsFiles, TlsPeer
from kdistill.errors import ConfigError, EnvironmentFault, InputError, PolicyError

#: The password of an encrypted key; never on the command line, where every user of the machine could read it.
KEY_PASSWORD: Final = "KDISTILL_DICOM_KEY_PASSWORD"
#: Of TLS 1.2; those of 1.3 are all of this kind (RFC 9325 4.2).
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
_MAX_FILE_BYTES: Final = 1_000_000
_LINGER_S: Final = 1.0

_PLAIN: Final = "the other side does not speak TLS"
_OURS_REFUSED: Final = "the other side does not accept our certificate"
_NOTHING_IN_COMMON: Final = "no TLS version or cipher in common (TLS 1.2 or later is asked for)"
#: OpenSSL's names of what went wrong -> what that means here.
_REASONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        **dict.fromkeys(
            ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "UNEXPECTED_MESSAGE"), _PLAIN
        ),
        **dict.fromkeys(("UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE", "BAD_RECORD_TYPE", "INVALID_ALERT"), _PLAIN),
        **dict.fromkeys(("NO_SHARED_CIPHER", "UNSUPPORTED_PROTOCOL", "NO_PROTOCOLS_AVAILABLE"), _NOTHING_IN_COMMON),
        **dict.fromkeys(("TLSV1_ALERT_PROTOCOL_VERSION", "NO_CIPHERS_AVAILABLE"), _NOTHING_IN_COMMON),
        "TLSV1_ALERT_INSUFFICIENT_SECURITY": _NOTHING_IN_COMMON,
        "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the other side shows no certificate",
        "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the other side wants a certificate (--tls-cert, --tls-key)",
        "SSLV3_ALERT_HANDSHAKE_FAILURE": "the other side wants a certificate of ours, or has no cipher in common",
        "TLSV1_ALERT_UNKNOWN_CA": "the other side does not know the CA of our certificate",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the other side says that our certificate has expired",
        "SSLV3_ALERT_CERTIFICATE_REVOKED": "the other side says that our certificate has been revoked",
        "SSLV3_ALERT_BAD_CERTIFICATE": _OURS_REFUSED,
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN": _OURS_REFUSED,
        "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": _OURS_REFUSED,
    }
)
#: X.509 verification results (OpenSSL, x509_vfy.h) -> what to look at.
_UNVERIFIED: Final[Mapping[int, str]] = MappingProxyType(
    {
        9: "it is not valid yet (is the clock right?)",
        10: "it has expired",
        18: "it is self-signed and not in --tls-ca",
        19: "its CA is not in --tls-ca",
        20: "its CA is not in --tls-ca",
        21: "its CA is not in --tls-ca",
        26: "it was made for another purpose (extended key usage)",
        62: "it is for another name: see --to-tls-name",
        64: "it is for another address: see --to-tls-name",
    }
)


class NoTlsError(OSError):
    """A peer began to speak DICOM in plain."""


def server_context(files: TlsFiles, peer: TlsPeer) -> ssl.SSLContext:
    """What a receiver agrees to.

    Args:
        files: Its certificate and key, and the CA of its callers.
        peer: "require": a caller must show a certificate of that CA; "none": it is not asked for one.

    Raises:
        ConfigError: Files are missing among the options, or belong to different keys.
        InputError: A file does not exist, or is no PEM file of its kind.
        PolicyError: Other users can read the key.
        EnvironmentFault: A file cannot be read by this user.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context)
    _load_own(context, files)
    if peer == "require":
        if files.ca is None:
            raise ConfigError(
                "who may call is not said",
                where="--tls-ca",
                remedy="Give the CA of the callers' certificates, or --tls-peer none to let callers without one in.",
            )
        _load_ca(context, files.ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """What a sender agrees to: the other side shows a certificate of the CA (None: of the system's) for its name.

    Args:
        files: The CA; and our own certificate and key, where the other side asks for one.

    Raises:
        ConfigError, InputError, PolicyError, EnvironmentFault: As `server_context`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context)
    if files.cert is not None:
        _load_own(context, files)
    if files.ca is not None:
        _load_ca(context, files.ca)
    else:
        context.load_default_certs()
    return context


def handshake(
    context: ssl.SSLContext, connection: socket.socket, seconds: float, *, name: str | None = None
) -> ssl.SSLSocket:
    """Agree on TLS over an open connection, which belongs to the result, and is closed where that fails.

    Python's own handshake has a time limit for each read alone: a peer that drips its bytes would hold it for hours.

    Args:
        context: Ours.
        connection: The connection.
        seconds: Time for all of it.
        name: Whom we have called; None: we were called.

    Raises:
        OSError: It failed (`reason_of` says why); a TimeoutError where it took too long.
    """
    try:
        secured = context.wrap_socket(
            connection, server_side=name is None, server_hostname=name, do_handshake_on_connect=False
        )
    except BaseException:
        connection.close()
        raise
    deadline = time.monotonic() + seconds
    try:
        secured.setblocking(False)
        while not _step(secured, deadline):
            pass
    except BaseException as error:
        if isinstance(error, ssl.SSLError):
            _linger(secured)
        secured.close()
        raise
    return secured


def _linger(secured: ssl.SSLSocket) -> None:
    """Let our alert arrive: a close with bytes unread would take it back, and the other side would not learn why."""
    deadline = time.monotonic() + _LINGER_S
    try:
        socket.socket.shutdown(secured, socket.SHUT_WR)
        while (left := deadline - time.monotonic()) > 0 and select.select([secured], [], [], left)[0]:
            if not socket.socket.recv(secured, 65_536):
                break
    except OSError:
        return


def _step(secured: ssl.SSLSocket, deadline: float) -> bool:
    """Whether the handshake is done; else the next of its bytes can be read or written."""
    reads, writes = [secured], [secured]
    try:
        secured.do_handshake()
    except ssl.SSLWantReadError:
        writes = []
    except ssl.SSLWantWriteError:
        reads = []
    else:
        return True
    left = deadline - time.monotonic()
    if left <= 0 or not any(select.select(reads, writes, [], left)):
        raise TimeoutError
    return False


def reason_of(error: OSError) -> str:
    """Why TLS failed, in our words: nothing that the other side sent is part of it.

    >>> reason_of(TimeoutError())
    'TLS was not agreed on in time'
    """
    match error:
        case ssl.SSLCertVerificationError():
            why = _UNVERIFIED.get(error.verify_code, f"X.509 error {error.verify_code}")
            return f"the other side's certificate is not accepted: {why}"
        case NoTlsError():
            return _PLAIN
        case ssl.SSLEOFError():
            return "the other side ended the connection during TLS"
        case ssl.SSLError():
            name = error.reason or "no reason given"
            return _REASONS.get(name, f"TLS failed ({name})")
        case TimeoutError():
            return "TLS was not agreed on in time"
        case _:
            return "the other side ended the connection during TLS"


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION


def _load_own(context: ssl.SSLContext, files: TlsFiles) -> None:
    if files.cert is None:
        raise ConfigError("a key needs its certificate", where="--tls-key", remedy="Give --tls-cert too.")
    _pem(files.cert, "--tls-cert", "CERTIFICATE")
    path, where = (files.cert, "--tls-cert") if files.key is None else (files.key, "--tls-key")
    text = _pem(path, where, "PRIVATE KEY")
    _check_private(path, where)
    is_encrypted, password = "ENCRYPTED" in text, os.environ.get(KEY_PASSWORD)
    if is_encrypted and not password:
        raise ConfigError("the key is encrypted", where=where, remedy=f"Set {KEY_PASSWORD} to its password.")
    try:  # with a password at hand, if an empty one, OpenSSL never asks the terminal
        context.load_cert_chain(files.cert, files.key, password=password or "")
    except ssl.SSLError as error:
        raise _unfit(error, is_encrypted, where) from error


def _unfit(error: ssl.SSLError, is_encrypted: bool, where: str) -> ConfigError:
    reason = error.reason or ""
    if "MISMATCH" in reason:
        return ConfigError(
            "the key does not belong to the certificate",
            where=f"{where}, --tls-cert",
            remedy="Give the key that the certificate was asked for with; the certificate itself comes before its CAs.",
        )
    if "TOO_SMALL" in reason or "TOO_WEAK" in reason:
        return ConfigError(
            f"the certificate is too weak for TLS today ({reason})",
            where="--tls-cert",
            remedy="Get one with RSA of 2048 bits or more (or P-256) and SHA-256.",
        )
    what = "the key cannot be opened with this password" if is_encrypted else "the key or certificate is damaged"
    remedy = f"Check {KEY_PASSWORD}." if is_encrypted else "Look at both with `openssl x509` and `openssl pkey`."
    return ConfigError(what, where=f"{where}, --tls-cert", remedy=remedy)


def _load_ca(context: ssl.SSLContext, path: Path) -> None:
    _pem(path, "--tls-ca", "CERTIFICATE")
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise InputError("holds a damaged certificate", where=f"--tls-ca {path}", remedy="Fetch it again.") from error


def _pem(path: Path, option: str, kind: str) -> str:
    """The text of a PEM file that holds at least one block of a kind."""
    where = f"{option} {path}"
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_FILE_BYTES).decode("ascii", "replace")
    except FileNotFoundError as error:
        raise InputError("no such file", where=where) from error
    except PermissionError as error:
        raise EnvironmentFault(
            "cannot be read by this user", where=where, remedy="Give it to the user that kdistill runs as, mode 600."
        ) from error
    except OSError as error:
        raise EnvironmentFault(
            f"cannot be read ({error.strerror})", where=where, remedy="Give one file in PEM."
        ) from error
    if f"{kind}-----" not in text:
        raise InputError(
            f"holds no {kind.lower()} in PEM",
            where=where,
            remedy="PEM is text that begins with -----BEGIN; `openssl` converts DER and PKCS #12 into it.",
        )
    return text


def _check_private(path: Path, option: str) -> None:
    """A group may read a key (Debian's ssl-cert), nobody else; nobody but its owner may write it."""
    if path.stat().st_mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise PolicyError(
            "holds a private key that other users of this machine can read or write",
            where=f"{option} {path}",
            remedy=f"chmod 600 {path}, and get a new key if anybody may have read it.",
        )
