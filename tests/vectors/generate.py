"""Known-answer vectors of `hansa.secure` and of the frames. Run this file to write them anew; a test compares every byte.

Private keys and nonces here are SHA-256 of small strings: they are public, and for tests alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
import numpy as np
from msgspec.structs import asdict, fields

from hansa.protocol import messages
from hansa.roles.run import Roster, run_id
from hansa.secure.keys import (
    Announcement,
    PairKey,
    RunKeyPair,
    RunNames,
    announced_bytes,
    confirmation,
    derive_pair_keys,
    encode_fields,
    roster_hash,
)
from hansa.secure.masking import Label, Masker, Transcript
from hansa.secure.prg import Algorithm, KeyStream
from hansa.secure.sealing import Sealer

FOLDER = Path(__file__).parent
MEMBERS = ("alba", "brix", "cova")
MASKED_WORDS = 20

SMALL_ORDER = {
    "zero": 0,
    "one": 1,
    "order eight, first": 325606250916557431795983626356110631294008115727848805560023387167927233504,
    "order eight, second": 39382357235489614581723060781553021112529911719440698176882885853963445705823,
    "p - 1": 2**255 - 20,
    "p": 2**255 - 19,
    "p + 1": 2**255 - 18,
    "zero, high bit set": 2**255,
    "one, high bit set": 2**255 + 1,
}
"""Every u-coordinate of small order on the curve or its twist; two more that differ in the ignored bit."""


def secret(text: str) -> bytes:
    """32 bytes for a test, from a name."""
    return hashlib.sha256(f"hansa test vector {text}".encode()).digest()


def run() -> RunNames:
    """The run of all vectors."""
    return RunNames(secret("plan"), run_id(secret("plan"), joined()), epoch=2)


def joined() -> Roster:
    """The roster of all vectors, as `Welcome` has it: member, nonce, rows, held-out rows, batches of enough rows."""
    return tuple((member, secret(f"nonce {member}"), 100 + i, 10 * i, b"\x01") for i, member in enumerate(MEMBERS))


def roster(algorithm: Algorithm) -> dict[str, Announcement]:
    """All members' keys, with empty signatures (they belong to the identities' own tests)."""
    return {member: Announcement(member, pair(member).public_key, algorithm, b"") for member in MEMBERS}


def pair(member: str) -> RunKeyPair:
    """A member's X25519 key."""
    return RunKeyPair(secret(f"private {member}"))


def pair_keys(member: str, algorithm: Algorithm) -> dict[str, PairKey]:
    """A member's keys with all others."""
    return derive_pair_keys(pair(member), member, roster(algorithm), run())


def label(algorithm: Algorithm, ring: int) -> Label:
    """The label of the vectors' masks."""
    transcript = Transcript(secret("start"))
    transcript.absorb("begin tree", b"tree 3")
    transcript.absorb("splits", b"")
    return Label(
        run=run().run_id,
        epoch=run().epoch,
        tree=3,
        step=1,
        tensor="histogram",
        roster_hash=roster_hash(run(), roster(algorithm)),
        transcript_hash=transcript.digest(),
        length=MASKED_WORDS + 1,
        ring=ring,
    )


def values(member: str, ring: int) -> np.ndarray[Any, Any]:
    """A member's vector before masking; all members' sum wraps around in the ring."""
    dtype = np.uint32 if ring == 32 else np.uint64
    return np.frombuffer(b"".join(secret(f"{member} {i}") for i in range(8)), dtype)[:MASKED_WORDS].copy()


def key_vectors() -> dict[str, Any]:
    """Encoding, run id, public and pair keys, roster hash, confirmation; announcements to refuse."""
    aes = Algorithm.AES_256_CTR
    roster_name = roster_hash(run(), roster(aes))
    accepted = {
        "encoded_fields": encode_fields("purpose", b"\x00\xff", "é", 2**64 - 1, b"", "", 0).hex(),
        "plan_hash": run().plan_hash.hex(),
        "roster": [[name, nonce.hex(), rows, held, enough.hex()] for name, nonce, rows, held, enough in joined()],
        "run_id": run().run_id.hex(),
        "epoch": run().epoch,
        "private": {member: secret(f"private {member}").hex() for member in MEMBERS},
        "public": {member: pair(member).public_key.hex() for member in MEMBERS},
        "announced_bytes": {m: announced_bytes(run(), m, pair(m).public_key, aes).hex() for m in MEMBERS},
        "roster_hash": roster_name.hex(),
        "expanded": {f"{m} {p}": key.expand(b"info").hex() for m, p, key in _directions(aes)},
        "confirmation": {f"{m} {p}": confirmation(key, roster_name).hex() for m, p, key in _directions(aes)},
    }
    refused = {name: number.to_bytes(32, "little").hex() for name, number in SMALL_ORDER.items()}
    return {"accepted": accepted, "refused_public_keys": refused}


def _directions(algorithm: Algorithm) -> Iterator[tuple[str, str, PairKey]]:
    return ((m, p, key) for m in MEMBERS for p, key in pair_keys(m, algorithm).items())


def mask_vectors() -> dict[str, Any]:
    """Key streams, labels and masked vectors for each cipher and ring; labels to refuse."""
    cases = [_mask_case(algorithm, ring) for algorithm in Algorithm for ring in (32, 64)]
    streams = {algorithm.value: KeyStream(secret("stream"), algorithm).words64(9).tolist() for algorithm in Algorithm}
    return {
        "stream_key": secret("stream").hex(),
        "streams": streams,
        "cases": cases,
        "refused_labels": _bad_labels(),
    }


def _mask_case(algorithm: Algorithm, ring: int) -> dict[str, Any]:
    name, masked = label(algorithm, ring), {}
    for member in MEMBERS:
        out = values(member, ring).copy()
        zero = Masker(member, pair_keys(member, algorithm), algorithm).mask(name, out)
        masked[member] = [*out.tolist(), zero]
    return {
        "algorithm": algorithm.value,
        "ring": ring,
        "label": _plain(name),
        "encoded_label": name.encode().hex(),
        "values": {member: values(member, ring).tolist() for member in MEMBERS},
        "masked": masked,
    }


def _plain(name: Label) -> dict[str, Any]:
    return {key: value.hex() if isinstance(value, bytes) else value for key, value in asdict(name).items()}


def _bad_labels() -> dict[str, dict[str, Any]]:
    good = _plain(label(Algorithm.AES_256_CTR, 32))
    changes: dict[str, dict[str, Any]] = {
        "short run id": {"run": "00" * 31},
        "long roster hash": {"roster_hash": "00" * 33},
        "no transcript hash": {"transcript_hash": ""},
        "negative epoch": {"epoch": -1},
        "negative tree": {"tree": -1},
        "huge step": {"step": 2**63},
        "tree that is no number": {"tree": "3"},
        "tree that is a truth value": {"tree": True},
        "no tensor": {"tensor": ""},
        "no words": {"length": 0},
        "ring of 16 bits": {"ring": 16},
    }
    return {name: good | change for name, change in changes.items()}


def sealing_vectors() -> dict[str, Any]:
    """Sealed messages of each cipher, and what a hub may make of them."""
    return {"cases": [_sealing_case(algorithm) for algorithm in Algorithm]}


def _sealing_case(algorithm: Algorithm) -> dict[str, Any]:
    sealer = Sealer(pair_keys("alba", algorithm)["brix"], run(), algorithm)
    messages = [("share", b"first"), ("share", b""), ("checkpoint", bytes(range(40)))]
    sealed = [sealer.seal(kind, message) for kind, message in messages]
    first = sealed[0]
    other_epoch = Sealer(pair_keys("alba", algorithm)["brix"], replace(run(), epoch=3), algorithm).seal(*messages[0])
    refused = {
        "flipped bit in the number": _flip(first, 0),
        "flipped bit in the text": _flip(first, 8),
        "flipped bit in the tag": _flip(first, len(first) - 1),
        "truncated": first[:-1],
        "too short": first[:23],
        "empty": b"",
        "longer": first + b"\x00",
        "the second before the first": sealed[1],
        "another epoch": other_epoch,
        "from another member": Sealer(pair_keys("cova", algorithm)["brix"], run(), algorithm).seal(*messages[0]),
        "the receiver's own": Sealer(pair_keys("brix", algorithm)["alba"], run(), algorithm).seal(*messages[0]),
    }
    return {
        "algorithm": algorithm.value,
        "sender": "alba",
        "receiver": "brix",
        "messages": [{"kind": kind, "message": message.hex()} for kind, message in messages],
        "sealed": [one.hex() for one in sealed],
        "refused_as_first_share": {name: one.hex() for name, one in refused.items()},
    }


def _flip(text: bytes, at: int) -> bytes:
    return text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :]


def frame_vectors() -> dict[str, Any]:
    """One frame of every kind of message, as it travels, with its fields; and frames that are refused."""
    kinds = sorted(messages.MESSAGES, key=lambda kind: kind.__name__)
    made = {kind.__name__: _message(kind) for kind in kinds}
    frames = {name: messages.encode(message) for name, message in made.items()}
    good = frames["SumLabels"]
    refused = {
        "empty": b"",
        "cut short": good[:-1],
        "longer": good + b"\x00",
        "unknown kind": good.replace(b"SumLabels", b"SumLabelz"),
        "another field": good.replace(b"label_unit", b"label_unix"),
        "text for a number": msgspec.msgpack.encode({"type": "SumLabels", "label_unit": "1", "weight_unit": 2}),
        "a truth value for a number": msgspec.msgpack.encode(
            {"type": "SumLabels", "label_unit": True, "weight_unit": 2}
        ),
        "no map": msgspec.msgpack.encode([1, 2]),
    }
    return {
        "version": messages.PROTOCOL_VERSION,
        "frames": {name: frame.hex() for name, frame in frames.items()},
        "refused": {name: frame.hex() for name, frame in refused.items()},
    }


def _message(kind: type[messages.Message]) -> messages.Message:
    """A message with a value of its own in every field, made from the fields' types."""
    hints = get_type_hints(kind)
    return kind(**{field.name: _example(hints[field.name], f"{kind.__name__}.{field.name}") for field in fields(kind)})


def _example(hint: Any, place: str) -> Any:
    number = int.from_bytes(secret(place)[:2], "big")
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is messages.Tensor:
        return messages.to_tensor(np.arange(3, dtype=np.uint32) + np.uint32(number))
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return _message(hint)
    if origin in (Union, UnionType):
        return _example(next(one for one in arguments if one is not type(None)), place)
    if origin is tuple:
        inner = arguments[:1] * 2 if arguments[-1] is Ellipsis else arguments
        return tuple(_example(one, f"{place}.{i}") for i, one in enumerate(inner))
    if origin is dict:
        return {f"name {i}": _example(arguments[1], f"{place}.{i}") for i in range(2)}
    simple: dict[Any, Any] = {
        bool: True,
        int: number,
        float: number / 8,
        str: f"text {number}",
        bytes: secret(place)[:8],
        memoryview: memoryview(secret(place)[:8]),
    }
    return simple[hint]


def generate() -> dict[str, str]:
    """Text of each vector file, by file name."""
    vectors = {
        "keys.json": key_vectors(),
        "masks.json": mask_vectors(),
        "sealing.json": sealing_vectors(),
        "frames.json": frame_vectors(),
    }
    return {name: json.dumps(content, indent=1) + "\n" for name, content in vectors.items()}


if __name__ == "__main__":
    for name, text in generate().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
