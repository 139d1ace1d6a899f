"""`dicom listen` and `dicom send`: beside an archive."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from kdistill.cli.run import JsonOption
from kdistill.cli.terminal import clean

CertOption = typer.Option(None, "--tls-cert", help="Our certificate (PEM, then the CAs between it and the root).")
KeyOption = typer.Option(None, "--tls-key", help="Its private key (PEM, mode 600).  [default: in the same file]")
CaOption = typer.Option(None, "--tls-ca", help="CA certificates (PEM) of the other side.  [default: the system's]")
ToTlsOption = typer.Option(False, "--to-tls", help="C-STORE to --to goes over TLS.")
ToNameOption = typer.Option(None, "--to-tls-name", help="Name in the destination's certificate.  [default: its host]")
CommitOption = typer.Option(
    False, "--commit", help="Ask the archive to commit to what it was sent (storage commitment; C-STORE only)."
)
CommitWaitOption = typer.Option(60.0, "--commit-wait", min=1, max=3600, help="Seconds to wait for its report.")
AllowOption = typer.Option([], "--allow", help="Address or network that may connect; repeat for more.")

app = typer.Typer(help="Receive images from an archive, and send results to it.", no_args_is_help=True)


@app.command(epilog="Example: kdistill dicom listen runs/demo --to ORTHANC@127.0.0.1:4242 --overlay")
def listen(
    run_dir: Path = typer.Argument(help="Folder of a run."),
    to: str | None = typer.Option(
        None, "--to", help="Where results go: AET@host:port (C-STORE) or https://host/dicom-web (STOW-RS)."
    ),
    out: Path | None = typer.Option(None, "--out", help="Write results into this folder instead."),
    outbox: Path | None = typer.Option(
        None, "--outbox", help="Folder for results that could not be delivered.  [default: they are lost, and counted]"
    ),
    arm: str = typer.Option("full", "--arm", help="Which student."),
    seed: int | None = typer.Option(None, "--seed", help="Which seed.  [default: the run's first]"),
    aet: str = typer.Option("KDISTILL", "--aet", help="Our AE title."),
    host: str = typer.Option("127.0.0.1", "--host", help="Address to listen on; any but loopback needs --allow."),
    port: int = typer.Option(11112, "--port", help="Port; 0 for any free one."),
    allow: list[str] = AllowOption,
    calling: list[str] = typer.Option([], "--calling-aet", help="AE title that may call; repeat.  [default: any]"),
    overlay: bool = typer.Option(False, "--overlay", help="Also send the film with its evidence painted on."),
    lateral: str = typer.Option("refuse", "--lateral", help="Lateral views, by their tags: refuse, or flag."),
    quality: str = typer.Option(
        "refuse", "--quality", help="For an image that is no upright frontal chest film: refuse, warn or off."
    ),
    tls_cert: Path | None = CertOption,
    tls_key: Path | None = KeyOption,
    tls_ca: Path | None = CaOption,
    tls_peer: str = typer.Option(
        "require", "--tls-peer", help="With --tls-cert, callers must show a certificate of --tls-ca: require, or none."
    ),
    to_tls: bool = ToTlsOption,
    to_tls_name: str | None = ToNameOption,
    commit: bool = CommitOption,
    commit_wait_s: float = CommitWaitOption,
    as_json: bool = typer.Option(False, "--json", help="One JSON object a line on stdout: start, counts, end."),
) -> None:
    """Explain frontal chest images as they arrive by C-STORE, and send the reports back. Research use only.

    With --tls-cert it speaks TLS only (1.2 or later). The password of an encrypted key: KDISTILL_DICOM_KEY_PASSWORD.

    Ctrl-C or SIGTERM: nothing more is accepted, what was accepted is finished, then it ends.
    """
    from kdistill.dicom_network.run import Way, listen_run

    def announce(status: dict[str, object]) -> None:
        typer.echo(json.dumps(status) if as_json else _sentence(status))

    settings = {"aet": aet, "host": host, "port": port, "allow": tuple(allow), "calling_aets": tuple(calling)}
    tls = {"tls_files": {"cert": tls_cert, "key": tls_key, "ca": tls_ca}, "tls_peer": tls_peer}
    done = listen_run(
        run_dir,
        {**settings, **tls, "overlay": overlay, "lateral": lateral},
        Way(to, out, outbox),
        sending={"tls": to_tls, "tls_name": to_tls_name, "commit": commit, "commit_wait_s": commit_wait_s},
        arm=arm,
        seed=seed,
        quality=quality,
        announce=announce,
    )
    announce(done)


def _sentence(status: dict[str, object]) -> str:
    if "port" in status:
        where = f"{status['aet']} on {status['host']}:{status['port']}{' (TLS)' if status['tls'] else ''}"
        return f"{status['model']}: {where} (Ctrl-C ends it; research use only)"
    counted = [f"{name} {value}" for name, value in status.items() if name != "state" and value]
    return f"{status['state']}: {', '.join(counted) or 'nothing yet'}"


@app.command(epilog="Example: kdistill dicom send explained/ --to https://archive.example/dicom-web")
def send(
    files: list[Path] = typer.Argument(help="DICOM files, or folders of them."),
    to: str = typer.Option(
        ..., "--to", help="AET@host:port (C-STORE), or the http(s) address of a DICOMweb service (STOW-RS)."
    ),
    aet: str = typer.Option("KDISTILL", "--aet", help="Our AE title."),
    attempts: int = typer.Option(3, "--attempts", min=1, help="Times to try while the destination is away."),
    tls_cert: Path | None = CertOption,
    tls_key: Path | None = KeyOption,
    tls_ca: Path | None = CaOption,
    to_tls: bool = ToTlsOption,
    to_tls_name: str | None = ToNameOption,
    commit: bool = CommitOption,
    commit_wait_s: float = CommitWaitOption,
    host: str = typer.Option("127.0.0.1", "--host", help="With --commit: address that the archive's report comes to."),
    port: int = typer.Option(11112, "--port", help="With --commit: its port, as the archive knows it for --aet."),
    allow: list[str] = AllowOption,
    as_json: bool = JsonOption,
) -> None:
    """Send DICOM files to an archive.

    For STOW-RS a login comes from the environment: KDISTILL_DICOM_TOKEN, or KDISTILL_DICOM_USER and
    KDISTILL_DICOM_PASSWORD. Exit code 4 where a file was not delivered, or not committed to with --commit.
    """
    from kdistill.dicom_network.run import send_files
    from kdistill.errors import EnvironmentFault

    told: list[dict[str, str]] = []

    def outcome(name: str, fate: str, reason: str) -> None:
        told.append({"file": name, "outcome": fate, "reason": reason})
        if not as_json:
            typer.echo(clean(f"{fate:>11}  {name}" + (f": {reason}" if reason else "")))

    files_of_tls = {"cert": tls_cert, "key": tls_key, "ca": tls_ca}
    sending = {"tls": to_tls, "tls_name": to_tls_name, "tls_files": files_of_tls}
    counts = send_files(
        files,
        to,
        aet=aet,
        attempts=attempts,
        sending={**sending, "commit": commit, "commit_wait_s": commit_wait_s},
        receiving={"host": host, "port": port, "allow": tuple(allow)},
        on_outcome=outcome,
    )
    if as_json:
        typer.echo(json.dumps({"counts": counts, "files": told}, ensure_ascii=False))
    if missing := sum(counts.values()) - counts["delivered"]:
        raise EnvironmentFault(
            f"{missing} of {len(told)} files were not delivered to {to}, or not committed to",
            remedy=_what_to_do(counts, aet),
        )


def _what_to_do(counts: dict[str, int], aet: str) -> str:
    """After files were not delivered, by what became of them."""
    remedies = {
        "again": f"Look whether it runs and lets {aet} in, then send those files again.",
        "refused": "What it refused it would refuse again: mend what the reason names.",
        "uncommitted": "What the archive has not committed to keep: it may come again.",
        "unreadable": "Leave out what is no DICOM file.",
    }
    return " ".join(["The reasons stand above.", *(text for fate, text in remedies.items() if counts[fate])])
