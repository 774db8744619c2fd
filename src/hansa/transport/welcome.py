"""The first frame of a connection, and what is said where there is none: why a hub refused, and what a failed handshake means."""

from __future__ import annotations

from datetime import UTC, datetime

from cryptography import x509

from hansa.errors import SessionRefused, TransportError, in_words
from hansa.transport.credentials import Credentials
from hansa.transport.frames import FrameReader, fragments
from hansa.transport.tls_stream import TlsError, TlsStream, Until

WELCOME, REFUSED = 1, 0
GREETING_LIMIT = 1024

ALERTS = {
    "unknown ca": "it does not know this member's certificate; compare both members files",
    "certificate expired": "this member's certificate has expired; renew it and send the new card to all",
    "bad certificate": "it finds this member's certificate not valid (not yet?); check the clocks of both machines",
    "certificate required": "it was shown no certificate; every member must show its own",
}
"""What the other end's refusals mean, by the last words of OpenSSL's name for them."""

_OF_DATES = ("certificate expired", "bad certificate")

UNKNOWN_RUN = "unrecognized name"
"""The same of a hub's service that does not know the run a connection is for (`routing`)."""


def greet(stream: TlsStream, greeting: bytes) -> None:
    """Send the first frame of an end."""
    for fragment in fragments(memoryview(greeting)):
        stream.write(fragment)
    stream.flush()


def await_welcome(stream: TlsStream, deadline: float, where: str) -> bytes:
    """What stands behind the hub's byte of welcome."""
    try:
        greeting = bytes(FrameReader(GREETING_LIMIT).read(Until(stream, deadline)))
    except TransportError as error:
        raise TransportError(f"{where}: no welcome: {in_words(error)}") from error
    if greeting[0] == REFUSED:
        reason = "".join(c for c in greeting[1:].decode("utf-8", "replace") if c.isprintable())
        raise SessionRefused(f"{where}: refused this member: {reason}")
    if greeting[0] != WELCOME:
        raise TransportError(f"{where}: answered the handshake with something else than a welcome")
    return greeting[1:]


def other_version(stream: TlsStream, deadline: float, where: str, credentials: Credentials) -> str:
    """What to say of a hub that speaks none of this member's versions: its own words, where it has some."""
    try:
        await_welcome(stream, deadline, where)
    except TransportError as refusal:
        if isinstance(refusal, SessionRefused):
            return str(refusal)
    return (
        f"{where}: speaks no version of the protocol that this member does ({', '.join(credentials.protocols)}); bring the older "
        "release up to date"
    )


def explained(error: TlsError, credentials: Credentials, hub: str) -> str:
    """What the failed handshake with a hub means, and the cure."""
    if (former := credentials.former.get(error.certificate)) is not None:
        return f"it shows the certificate {former}; ask the hub's member which keys it starts with"
    if error.verification:
        return (
            f"its certificate is not the valid one of the members file ({error.verification}); "
            "either somebody else answers there, or its certificate was renewed or expired: ask for its present card"
            f"{_dated(credentials.certificates[hub]) if error.of_dates else ''}"
        )
    for alert, meaning in ALERTS.items():
        if error.reason.endswith(alert):
            return meaning + (_dated(credentials.certificates[credentials.member]) if alert in _OF_DATES else "")
    return f"the handshake failed ({error}); is it Hansa that listens there?"


def _dated(certificate: bytes) -> str:
    """What a wrong clock can be told by, behind an error that a certificate's dates gave."""
    parsed, form = x509.load_der_x509_certificate(certificate), "%Y-%m-%d %H:%M"
    first, last = parsed.not_valid_before_utc.strftime(form), parsed.not_valid_after_utc.strftime(form)
    return (
        f". It is valid from {first} to {last} UTC, and this machine's clock says {datetime.now(UTC).strftime(form)} UTC: "
        "where that is between the two, the other machine's clock may be wrong, and else perhaps this one's"
    )
