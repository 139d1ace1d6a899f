"""Settings of the server. Imports nothing heavy."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Final

from pydantic import Field, model_validator

from kdistill.config import ConfigModel

#: Characters that a token has at least.
MIN_TOKEN: Final = 16


class ServeConfig(ConfigModel):
    """Where it listens, and how much it takes on at a time."""

    host: str = Field(default="127.0.0.1", description="Address to listen on; any but loopback needs a token.")
    port: int = Field(default=8080, ge=0, le=65535, description="0: any free one.")
    token: str | None = Field(
        default=None,
        min_length=MIN_TOKEN,
        pattern=r"^[!-~]+$",  # what a header can carry
        description="Bearer token that every request must carry: letters, digits and signs without spaces.",
    )
    max_upload_mb: int = Field(default=64, ge=1, le=1024, description="Largest image file, in MB of 10^6 bytes.")
    max_waiting: int = Field(
        default=32, ge=1, description="Images that may wait for the model; more are told to retry."
    )
    max_held_mb: int = Field(
        default=512, ge=1, description="Uploads in memory at a time, in MB; beyond it more are told to retry."
    )
    decoders: int = Field(default=2, ge=1, description="Child processes that decode uploads, each with limits.")
    batch_size: int = Field(default=8, ge=1, description="Waiting images that the model reads at once.")
    deadline_s: float = Field(default=60.0, gt=0, description="An image that has waited longer is not read any more.")
    keep_s: float = Field(default=3600.0, gt=0, description="A result is deleted so long after it was made.")
    feedback: Path | None = Field(
        default=None, description="SQLite file for what readers say; None: nothing is asked and nothing is kept."
    )
    feedback_text: bool = Field(default=True, description="Whether feedback may hold free text.")
    feedback_max_mb: int = Field(default=256, ge=1, description="The feedback file is not let grow beyond this.")
    max_results: int = Field(default=500, ge=1, description="Results kept at a time; the oldest goes first.")
    max_pixels_mb: int = Field(
        default=512,
        ge=1,
        description="Films kept at full depth, in MB of 10^6 bytes in all; older ones stay in 8 bits.",
    )

    @model_validator(mode="after")
    def _token_off_loopback(self) -> ServeConfig:
        if self.token is None and not is_loopback(self.host):
            raise ValueError(f"host {self.host} can be reached from outside: give a token (--token, 16 characters)")
        return self


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
