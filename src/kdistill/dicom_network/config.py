"""Settings of the DICOM receiver and of where results go. Imports nothing heavy."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from kdistill.config import ConfigModel
from kdistill.errors import ConfigError

#: DICOM's registered port that needs no privilege (PS3.8 9.1.1); that of DICOM over TLS is 2762 (PS3.15 B.12).
DICOM_PORT: Final = 11112
AE_TITLE: Final = "KDISTILL"
LateralPolicy = Literal["refuse", "flag"]
TlsPeer = Literal["require", "none"]
#: PS3.5 6.2, value representation AE: 1 to 16 printable characters, no backslash, not blank.
AeTitle = Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[!-\[\]-~]([ -\[\]-~]*[!-\[\]-~])?$")]
_C_STORE: Final = re.compile(r"(?P<aet>[^@]{1,16})@(?P<host>\[[0-9A-Fa-f:.]+\]|[^:@\[\]/]+):(?P<port>[0-9]{1,5})")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class StoreTarget(ConfigModel):
    """An application entity that stores objects over the DICOM protocol."""

    kind: Literal["c-store"] = "c-store"
    aet: AeTitle = Field(description="Its AE title.")
    host: str = Field(min_length=1, description="Its name or address.")
    port: int = Field(ge=1, le=65535, description="Its port.")


class WebTarget(ConfigModel):
    """A DICOMweb service that stores objects over HTTP (STOW-RS)."""

    kind: Literal["stow-rs"] = "stow-rs"
    url: str = Field(description="The service's base address, or its studies resource.")


class FolderTarget(ConfigModel):
    """A folder; one file an object, named by its UID."""

    kind: Literal["folder"] = "folder"
    path: Path = Field(description="The folder; it is made where it is missing.")


Target = StoreTarget | WebTarget | FolderTarget


def parse_target(text: str) -> StoreTarget | WebTarget:
    """A destination as it is typed: `aet@host:port`, or the http(s) address of a DICOMweb service.

    Raises:
        ConfigError: It is neither; or a password stands in it, where every user of the machine could read it.

    >>> parse_target("PACS@10.0.0.5:104").port
    104
    """
    if text.startswith(("http://", "https://")):
        parts = urlsplit(text)
        if "@" in parts.netloc:
            raise ConfigError(
                "holds a user name or password, which others on this machine could read",
                where="--to",
                remedy="Leave it out and set KDISTILL_DICOM_USER and KDISTILL_DICOM_PASSWORD.",
            )
        if not parts.hostname or parts.query or parts.fragment:
            raise ConfigError("is no address of a DICOMweb service", where="--to", remedy=_TARGETS)
        return WebTarget(url=text)
    found = _C_STORE.fullmatch(text)
    if found is None or not 1 <= int(found["port"]) <= 65535:
        raise ConfigError("is no destination", where="--to", remedy=_TARGETS)
    try:
        return StoreTarget(aet=found["aet"].strip(), host=found["host"].strip("[]"), port=int(found["port"]))
    except ValueError as error:
        raise ConfigError("is no AE title", where="--to", remedy=_TARGETS) from error


_TARGETS: Final = "Give AET@host:port (C-STORE) or https://host/dicom-web (STOW-RS)."


class TlsFiles(ConfigModel):
    """PEM files of this side of a TLS connection."""

    cert: Path | None = Field(default=None, description="Our certificate, then the CAs between it and the root.")
    key: Path | None = Field(default=None, description="Its private key; none: it stands in the same file.")
    ca: Path | None = Field(default=None, description="CA certificates that the other side's must go back to.")


class SendConfig(ConfigModel):
    """How results travel, and how long a destination that does not answer is asked again."""

    aet: AeTitle = Field(default=AE_TITLE, description="Our own AE title.")
    tls: bool = Field(default=False, description="C-STORE goes over TLS.")
    tls_files: TlsFiles = Field(default=TlsFiles(), description="Certificates, for TLS and for https.")
    tls_name: str | None = Field(default=None, description="Name in the destination's certificate; none: its host.")
    timeout_s: float = Field(default=30.0, gt=0, description="Seconds that a destination may take for each answer.")
    commit: bool = Field(default=False, description="Ask the archive to commit to what it was sent (C-STORE only).")
    commit_wait_s: float = Field(default=60.0, gt=0, le=3600, description="Seconds that its report is waited for.")
    attempts: int = Field(default=8, ge=1, description="Times that a result is sent at most.")
    first_pause_s: float = Field(default=1.0, ge=0, description="Pause after the first attempt; each next one doubles.")
    longest_pause_s: float = Field(default=30.0, ge=0, description="Longest pause between two attempts.")


class ListenConfig(ConfigModel):
    """Where the receiver listens, to whom, and how much it takes on at a time."""

    aet: AeTitle = Field(default=AE_TITLE, description="Our AE title; another one called is rejected.")
    host: str = Field(default="127.0.0.1", description="Address to listen on; any but loopback needs `allow`.")
    port: int = Field(default=DICOM_PORT, ge=0, le=65535, description="Port; 0: any free one.")
    allow: tuple[str, ...] = Field(default=(), description="Addresses or networks that may connect; none: loopback.")
    calling_aets: tuple[AeTitle, ...] = Field(default=(), description="AE titles that may call; none: any.")
    tls_files: TlsFiles = Field(default=TlsFiles(), description="With a certificate among them: TLS, and only TLS.")
    tls_peer: TlsPeer = Field(default="require", description="Whether a caller must show a certificate of the CA.")
    lateral: LateralPolicy = Field(
        default="refuse", description="A lateral view by its tags: refuse it, or explain it with a flag that says so."
    )
    overlay: bool = Field(default=False, description="Also send the film with its evidence as a secondary capture.")
    max_connections: int = Field(default=64, ge=1, description="Open connections, with and without an association.")
    max_associations: int = Field(default=16, ge=1, description="Associations at a time; more are rejected for now.")
    max_open: int = Field(
        default=64, ge=1, description="Images accepted and not yet answered; more are told: out of resources."
    )
    max_object_mb: int = Field(default=64, ge=1, le=1024, description="Largest object, in MB of 10^6 bytes.")
    acse_timeout_s: float = Field(default=10.0, gt=0, description="Seconds to ask for, or release, an association.")
    dimse_timeout_s: float = Field(default=30.0, gt=0, description="Seconds that a peer may take for an answer.")
    network_timeout_s: float = Field(default=30.0, gt=0, description="An association silent for so long is aborted.")
    object_timeout_s: float = Field(default=120.0, gt=0, description="Seconds that one object may take to arrive.")
    decoders: int = Field(default=2, ge=1, description="Child processes that decode images, each with limits.")
    batch_size: int = Field(default=8, ge=1, description="Waiting images that the model reads at once.")
    remember: int = Field(default=10_000, ge=0, description="Instance UIDs remembered, so that none is answered twice.")

    @field_validator("allow")
    @classmethod
    def _are_networks(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            network_of(value)
        return values

    @property
    def networks(self) -> tuple[Network, ...]:
        """Who may connect."""
        return tuple(network_of(text) for text in self.allow or ("127.0.0.0/8", "::1"))


def network_of(text: str) -> Network:
    """An address or network.

    Raises:
        ValueError: It is neither.

    >>> ipaddress.ip_address("10.1.2.3") in network_of("10.1.0.0/16")
    True
    """
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is no address or network, like 10.1.2.3 or 10.1.0.0/16") from None
