"""Who one end of a connection is, and whom it may talk to, as TLS needs it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from OpenSSL import SSL, crypto

from hansa.errors import IdentityError
from hansa.transport.tls_stream import OFFERED, note_verification

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

_PARTIAL_WRITE = 1
"""SSL_MODE_ENABLE_PARTIAL_WRITE of OpenSSL's ssl.h, which pyOpenSSL sets: a call would send one record of what it is given."""


@dataclass(frozen=True)
class Credentials:
    """Who this end is, and whom it may talk to. Nothing can be left out, so nothing can run unprotected.

    Attributes:
        member: this end's own name.
        certificate: its certificate, DER.
        key: the certificate's private key, which is in memory alone.
        certificates: every member's name -> exact certificate, DER; this member's own among them.
        protocols: versions of the protocol that this end speaks, the one that it likes best first; none are compared where it is
            empty.
        route: which run a connection is for, as a host name in the clear (TLS's server name indication): a hub's service hands the
            connection to the process of that run, which then checks who is there. Empty says nothing.
        former: certificate, DER, that was trusted once -> whose it was, and why it is no more, in words. It only explains a refusal.

    Raises:
        IdentityError: a part is missing or does not fit the others; the text says which, and the cure.
    """

    member: str
    certificate: bytes = field(repr=False)
    key: PrivateKey = field(repr=False)
    certificates: Mapping[str, bytes]
    protocols: tuple[str, ...] = ()
    route: str = ""
    former: Mapping[bytes, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.certificates) < 2:
            raise IdentityError("the members' certificates are missing; name the members file that all agreed on")
        if len(set(self.certificates.values())) < len(self.certificates):
            raise IdentityError("two members have the same certificate; list each member once")
        if self.member not in self.certificates:
            raise IdentityError(f"member {self.member!r} is not in the members file; add its card at every member")
        if self.certificate != self.certificates[self.member]:
            raise IdentityError(
                f"this identity's certificate is not the certificate of {self.member!r} in the members file; "
                "after renewing, every member needs the new card"
            )
        self._load_into(SSL.Context(SSL.TLS_CLIENT_METHOD))

    def server_context(self) -> SSL.Context:
        """TLS for a hub: any member may be at the other end, and must prove it."""
        context = self._context(SSL.TLS_SERVER_METHOD, self.certificates.values())
        if self.protocols:
            context.set_alpn_select_callback(self._choose_protocol)
        return context

    def client_context(self, hub: str) -> SSL.Context:
        """TLS for a member that dials out: nobody but the member `hub` may be at the other end."""
        if hub not in self.certificates or hub == self.member:
            raise IdentityError(f"{hub!r} cannot be the hub of {self.member!r}; name another member as the hub")
        context = self._context(SSL.TLS_CLIENT_METHOD, [self.certificates[hub]])
        if self.protocols:
            context.set_alpn_protos([protocol.encode("ascii") for protocol in self.protocols])
        return context

    def _choose_protocol(self, connection: SSL.Connection, offered: list[bytes]) -> Any:
        """The best of this end's versions that the other offers; where there is none, the handshake goes on so that it can be told."""
        OFFERED[connection] = tuple(name.decode("ascii", "backslashreplace") for name in offered)
        common = [own.encode("ascii") for own in self.protocols if own.encode("ascii") in offered]
        return common[0] if common else SSL.NO_OVERLAPPING_PROTOCOLS

    def _context(self, method: int, trusted: Iterable[bytes]) -> SSL.Context:
        context = SSL.Context(method)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        # No host name is checked: the certificate itself is pinned; host names prove less.
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, note_verification)
        # Nothing is kept to resume a session from, and no ticket holds one.
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION)
        context.clear_mode(_PARTIAL_WRITE)
        store = context.get_cert_store()
        assert store is not None  # every context has one
        # A leaf that is trusted itself ends the chain; it needs no authority above it.
        store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
        try:
            for certificate in trusted:
                store.add_cert(crypto.X509.from_cryptography(x509.load_der_x509_certificate(certificate)))
        except (ValueError, SSL.Error, crypto.Error) as error:
            raise IdentityError(f"a certificate of the members file is damaged ({error}); ask for new cards") from error
        self._load_into(context)
        return context

    def _load_into(self, context: SSL.Context) -> None:
        try:
            context.use_certificate(x509.load_der_x509_certificate(self.certificate))
            context.use_privatekey(self.key)
            context.check_privatekey()
        except (ValueError, TypeError, UnsupportedAlgorithm, SSL.Error) as error:
            raise IdentityError(
                f"the TLS key of {self.member!r} does not fit its certificate ({error}); restore both from one identity"
            ) from error
