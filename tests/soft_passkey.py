"""An authenticator in software, which does what a browser and a security key do together; and lies where a test has it lie."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from typing import Any

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

USER_PRESENT, USER_VERIFIED, HAS_CREDENTIAL = 0x01, 0x04, 0x40


def text_of(content: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def bytes_of(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class SoftPasskey:
    """One passkey.

    Attributes:
        id: of the credential. counter: how often it signed; it stays 0 where `counts` is false. handle: of the account.
        origin, site: what it says of where it is; None for the truth. verifies: whether it verifies the person.
    """

    def __init__(self, origin: str, *, counts: bool = True) -> None:
        self.id = secrets.token_bytes(16)
        self.counts, self.counter, self.handle = counts, 0, b""
        self.origin, self.site, self.verifies = origin, "", True
        self._key = ec.generate_private_key(ec.SECP256R1())

    def make(self, asked: dict[str, Any]) -> str:
        """The answer to `navigator.credentials.create`."""
        self.handle = bytes_of(asked["user"]["id"])
        self.site = self.site or asked["rp"]["id"]
        numbers = self._key.public_key().public_numbers()
        key = cbor2.dumps({1: 2, 3: -7, -1: 1, -2: numbers.x.to_bytes(32, "big"), -3: numbers.y.to_bytes(32, "big")})
        credential = bytes(16) + len(self.id).to_bytes(2, "big") + self.id + key
        attested = cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": self._data(HAS_CREDENTIAL, credential)})
        client = self._client("webauthn.create", asked)
        return self._answer({"clientDataJSON": text_of(client), "attestationObject": text_of(attested)})

    def show(self, asked: dict[str, Any]) -> str:
        """The answer to `navigator.credentials.get`."""
        self.counter += self.counts
        client, data = self._client("webauthn.get", asked), self._data(0, b"")
        signature = self._key.sign(data + hashlib.sha256(client).digest(), ec.ECDSA(hashes.SHA256()))
        return self._answer(
            {
                "clientDataJSON": text_of(client),
                "authenticatorData": text_of(data),
                "signature": text_of(signature),
                "userHandle": text_of(self.handle),
            }
        )

    def _client(self, kind: str, asked: dict[str, Any]) -> bytes:
        told = {"type": kind, "challenge": asked["challenge"], "origin": self.origin, "crossOrigin": False}
        return json.dumps(told).encode()

    def _data(self, flags: int, credential: bytes) -> bytes:
        flags |= USER_PRESENT | (USER_VERIFIED if self.verifies else 0)
        return (
            hashlib.sha256(self.site.encode()).digest() + bytes([flags]) + self.counter.to_bytes(4, "big") + credential
        )

    def _answer(self, response: dict[str, str]) -> str:
        return json.dumps(
            {"id": text_of(self.id), "rawId": text_of(self.id), "type": "public-key", "response": response}
        )
