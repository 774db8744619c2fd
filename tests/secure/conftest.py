"""Shared by the tests of `hansa.secure`: paths of the naive twins and vectors, and a little consortium."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from hansa.errors import IdentityError
from hansa.secure.keys import (
    Announcement,
    PairKey,
    RunKeyPair,
    RunNames,
    announce,
    check_announcements,
    derive_pair_keys,
    encode_fields,
    fresh_key_pair,
)
from hansa.secure.prg import Algorithm

TESTS = Path(__file__).parent.parent


@dataclass(frozen=True)
class Consortium:
    """Members with identities and fresh run keys, set up honestly."""

    run: RunNames
    identities: Mapping[str, Ed25519PrivateKey]
    pairs: Mapping[str, RunKeyPair]
    announcements: Mapping[str, Announcement]

    @property
    def publics(self) -> dict[str, bytes]:
        return {member: key.public_key().public_bytes_raw() for member, key in self.identities.items()}

    def sign(self, member: str):
        key = self.identities[member]
        return lambda purpose, message: key.sign(encode_fields(purpose, message))

    def pair_keys(self, member: str) -> dict[str, PairKey]:
        checked = check_announcements(self.announcements.values(), self.run, self.publics, verify)
        return derive_pair_keys(self.pairs[member], member, checked, self.run)


def verify(public: bytes, purpose: str, message: bytes, signature: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, encode_fields(purpose, message))
    except InvalidSignature as error:
        raise IdentityError("wrong signature") from error


def consortium(members: int = 3, epoch: int = 0) -> Consortium:
    """`members` members with fresh keys."""
    names = [f"party-{index:02}" for index in range(members)]
    run = RunNames(b"p" * 32, b"r" * 32, epoch)
    empty = Consortium(
        run,
        {name: Ed25519PrivateKey.generate() for name in names},
        {name: fresh_key_pair() for name in names},
        {},
    )
    announcements = {
        name: announce(empty.pairs[name], run, name, Algorithm.AES_256_CTR, empty.sign(name)) for name in names
    }
    return Consortium(run, empty.identities, empty.pairs, announcements)


@pytest.fixture
def three() -> Consortium:
    """Three members, set up honestly."""
    return consortium(3)


@pytest.fixture
def make_consortium():
    """`consortium`, for tests that choose the number of members."""
    return consortium


@pytest.fixture
def check_signature():
    """`verify` as `keys.check_announcements` takes it."""
    return verify


@pytest.fixture(scope="session")
def vectors() -> ModuleType:
    """The generator of the known-answer vectors."""
    spec = importlib.util.spec_from_file_location("hansa_vectors", TESTS / "vectors" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
