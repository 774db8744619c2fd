"""Who one end of a connection is, and whom it may talk to, as TLS needs it."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hansa.errors import IdentityError


@dataclass(frozen=True)
class Credentials:
    """Who this end is, and whom it may talk to. Nothing can be left out, so nothing can run unprotected.

    Attributes:
        member: this end's own name.
        certificate_file: its certificate, PEM.
        key_file: the certificate's private key, PEM.
        certificates: every member's name -> exact certificate, DER; this member's own among them.

    Raises:
        IdentityError: a part is missing or does not fit the others; the text says which, and the cure.
    """

    member: str
    certificate_file: Path
    key_file: Path
    certificates: Mapping[str, bytes]

    def __post_init__(self) -> None:
        for what, path in (("certificate", self.certificate_file), ("private key", self.key_file)):
            if not Path(path).is_file():
                raise IdentityError(
                    f"{path}: no such file; the {what} of member {self.member!r} belongs there. "
                    "Certificate and key are both needed: Hansa has no unprotected mode"
                )
        if len(self.certificates) < 2:
            raise IdentityError("the members' certificates are missing; name the members file that all agreed on")
        if len(set(self.certificates.values())) < len(self.certificates):
            raise IdentityError("two members have the same certificate; list each member once")
        if self.member not in self.certificates:
            raise IdentityError(f"member {self.member!r} is not in the members file; add its card at every member")
        if self._own_certificate() != self.certificates[self.member]:
            raise IdentityError(
                f"{self.certificate_file}: not the certificate of {self.member!r} in the members file; "
                "after renewing, every member needs the new card"
            )
        self._load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))

    def server_context(self) -> ssl.SSLContext:
        """TLS for a hub: any member may be at the other end, and must prove it."""
        context = self._context(ssl.PROTOCOL_TLS_SERVER, self.certificates.values())
        context.num_tickets = 0
        return context

    def client_context(self, hub: str) -> ssl.SSLContext:
        """TLS for a member that dials out: nobody but the member `hub` may be at the other end."""
        if hub not in self.certificates or hub == self.member:
            raise IdentityError(f"{hub!r} cannot be the hub of {self.member!r}; name another member as the hub")
        return self._context(ssl.PROTOCOL_TLS_CLIENT, [self.certificates[hub]])

    def _context(self, protocol: int, trusted: Iterable[bytes]) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.check_hostname = False  # the certificate itself is pinned; host names prove less
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        # A leaf that is trusted itself ends the chain; it needs no authority above it.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION
        try:
            context.load_verify_locations(cadata=b"".join(trusted))
        except ssl.SSLError as error:
            raise IdentityError(f"a certificate of the members file is damaged ({error}); ask for new cards") from error
        self._load_into(context)
        return context

    def _load_into(self, context: ssl.SSLContext) -> None:
        try:
            # A password would be asked for on the terminal; an encrypted key is refused instead.
            context.load_cert_chain(self.certificate_file, self.key_file, password=lambda: b"")
        except (OSError, ValueError) as error:
            raise IdentityError(
                f"{self.key_file} does not fit {self.certificate_file} ({error}); restore both from one identity"
            ) from error

    def _own_certificate(self) -> bytes:
        try:
            return ssl.PEM_cert_to_DER_cert(Path(self.certificate_file).read_text(encoding="ascii").strip())
        except (OSError, ValueError) as error:
            raise IdentityError(f"{self.certificate_file}: not a certificate in PEM ({error})") from error
