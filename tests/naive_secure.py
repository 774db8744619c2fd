"""Slow twins of `hansa.secure`, from the standards: no shared code, plain integers, AES block by block."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

PRIME_25519 = 2**255 - 19
PRIME_1305 = 2**130 - 5


def fields(*values: bytes | str | int) -> bytes:
    """Count, then (type, length, body) of each value."""
    out = len(values).to_bytes(4, "little")
    for value in values:
        if isinstance(value, bytes):
            out += b"b" + len(value).to_bytes(8, "little") + value
        elif isinstance(value, str):
            out += b"s" + len(value.encode()).to_bytes(8, "little") + value.encode()
        else:
            out += b"i" + (8).to_bytes(8, "little") + value.to_bytes(8, "little")
    return out


def x25519(scalar: bytes, u_bytes: bytes) -> bytes:
    """RFC 7748, section 5: the Montgomery ladder."""
    k = int.from_bytes(scalar, "little") & ~7 & ((1 << 255) - 1) | (1 << 254)
    u = int.from_bytes(u_bytes, "little") & ((1 << 255) - 1)
    x2, z2, x3, z3 = 1, 0, u, 1
    for bit in reversed(range(255)):
        if swap := k >> bit & 1:
            x2, z2, x3, z3 = x3, z3, x2, z2
        plus, minus = x2 + z2, x2 - z2
        cross_a, cross_b = (x3 - z3) * plus, (x3 + z3) * minus
        squared, difference = plus * plus, plus * plus - minus * minus
        x3, z3 = (
            pow(cross_a + cross_b, 2, PRIME_25519),
            u * pow(cross_a - cross_b, 2, PRIME_25519) % PRIME_25519,
        )
        x2, z2 = (
            squared * minus * minus % PRIME_25519,
            difference * (squared + 121665 * difference) % PRIME_25519,
        )
        if swap:
            x2, z2, x3, z3 = x3, z3, x2, z2
    return (x2 * pow(z2, PRIME_25519 - 2, PRIME_25519) % PRIME_25519).to_bytes(32, "little")


def hkdf_extract(salt: bytes, secret: bytes) -> bytes:
    """RFC 5869, section 2.2."""
    return hmac.new(salt, secret, hashlib.sha256).digest()


def hkdf_expand(key: bytes, info: bytes, length: int = 32) -> bytes:
    """RFC 5869, section 2.3."""
    out, block = b"", b""
    for counter in range(1, -(-length // 32) + 1):
        block = hmac.new(key, block + info + bytes([counter]), hashlib.sha256).digest()
        out += block
    return out[:length]


def aes_blocks(key: bytes, blocks: bytes) -> bytes:
    """AES of each 16-byte block by itself."""
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return encryptor.update(blocks) + encryptor.finalize()


def aes_stream(key: bytes, length: int) -> bytes:
    """AES-256 of the counters 2, 3, ... as big-endian blocks."""
    counters = b"".join((2 + counter).to_bytes(16, "big") for counter in range(-(-length // 16)))
    return aes_blocks(key, counters)[:length]


def chacha20_block(key: bytes, counter: int, nonce: bytes) -> bytes:
    """RFC 8439, section 2.3."""
    words = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574]
    tail = key + counter.to_bytes(4, "little") + nonce
    words += [int.from_bytes(tail[i : i + 4], "little") for i in range(0, 48, 4)]
    state = list(words)

    def turn(target: int, source: int, other: int, bits: int) -> None:
        state[target] = (state[target] + state[source]) & 0xFFFFFFFF
        mixed = state[other] ^ state[target]
        state[other] = (mixed << bits | mixed >> 32 - bits) & 0xFFFFFFFF

    columns = [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)]
    diagonals = [(0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]
    for a, b, c, d in (columns + diagonals) * 10:
        turn(a, b, d, 16)
        turn(c, d, b, 12)
        turn(a, b, d, 8)
        turn(c, d, b, 7)
    return b"".join(((x + y) & 0xFFFFFFFF).to_bytes(4, "little") for x, y in zip(state, words, strict=True))


def chacha20_stream(key: bytes, length: int, counter: int = 0, nonce: bytes = bytes(12)) -> bytes:
    """RFC 8439, section 2.4, of zeros."""
    blocks = range(counter, counter + -(-length // 64))
    return b"".join(chacha20_block(key, block, nonce) for block in blocks)[:length]


STREAMS: Mapping[str, Callable[[bytes, int], bytes]] = {
    "aes-256-ctr": aes_stream,
    "chacha20": chacha20_stream,
}


def stream_words(algorithm: str, key: bytes, count: int, ring: int) -> list[int]:
    """The first `count` little-endian words of a key stream."""
    size = ring // 8
    stream = STREAMS[algorithm](key, count * size)
    return [int.from_bytes(stream[i : i + size], "little") for i in range(0, len(stream), size)]


def named_stream(algorithm: str, key: bytes, name: bytes, length: int) -> bytes:
    """The stream of a name in a family: the cipher's input is the name, then the block's number."""
    if algorithm == "chacha20":
        return chacha20_stream(key, length, nonce=bytes(4) + name)
    numbers = range(2, 2 + -(-length // 16))
    return aes_blocks(key, b"".join(name + n.to_bytes(8, "big") for n in numbers))[:length]


def pair_key(
    private: bytes, publics: Mapping[str, bytes], member: str, peer: str, plan: bytes, run: bytes, epoch: int
) -> bytes:
    """K_ij of `member` with `peer`."""
    low, high = min(member, peer), max(member, peer)
    info = fields("hansa pair key v1", run, epoch, low, publics[low], high, publics[high])
    return hkdf_expand(hkdf_extract(plan, x25519(private, publics[peer])), info)


def mask(
    values: list[int], member: str, keys: Mapping[str, bytes], label: bytes, ring: int, algorithm: str
) -> list[int]:
    """The masked vector, closing zero word included: plain integers modulo 2^ring."""
    out = [*values, 0]
    for peer, key in keys.items():
        first = int.from_bytes(hkdf_expand(key, fields("hansa mask name v3", algorithm) + label)[:8], "little")
        family, length, stream = hkdf_expand(key, fields("hansa mask key v3", algorithm)), len(out) * ring // 8, b""
        while len(stream) < length:  # a chunk of 512 KiB has a name of its own
            name = ((first + len(stream) // 2**19) % 2**64).to_bytes(8, "little")
            stream += named_stream(algorithm, family, name, min(2**19, length - len(stream)))
        words = np.frombuffer(stream, f"<u{ring // 8}").tolist()
        sign = 1 if member.encode() < peer.encode() else -1
        out = [(value + sign * word) % 2**ring for value, word in zip(out, words, strict=True)]
    return out


def gcm_seal(key: bytes, nonce: bytes, message: bytes, context: bytes) -> bytes:
    """AES-256-GCM with a 12-byte nonce (NIST SP 800-38D, section 7.1): ciphertext and tag."""
    counters = b"".join(nonce + counter.to_bytes(4, "big") for counter in range(1, 2 + -(-len(message) // 16)))
    pads = aes_blocks(key, counters)
    ciphertext = bytes(x ^ y for x, y in zip(message, pads[16:], strict=False))
    hash_key, total = int.from_bytes(aes_blocks(key, bytes(16)), "big"), 0
    hashed = _padded(context) + _padded(ciphertext)
    hashed += (8 * len(context)).to_bytes(8, "big") + (8 * len(ciphertext)).to_bytes(8, "big")
    for i in range(0, len(hashed), 16):
        total = _gcm_times(total ^ int.from_bytes(hashed[i : i + 16], "big"), hash_key)
    return ciphertext + bytes(x ^ y for x, y in zip(total.to_bytes(16, "big"), pads[:16], strict=True))


def _gcm_times(x: int, y: int) -> int:
    product = 0
    for bit in reversed(range(128)):
        product ^= y if x >> bit & 1 else 0
        y = y >> 1 ^ (0xE1 << 120 if y & 1 else 0)
    return product


def _padded(text: bytes) -> bytes:
    return text + bytes(-len(text) % 16)


def chacha20_poly1305_seal(key: bytes, nonce: bytes, message: bytes, context: bytes) -> bytes:
    """RFC 8439, section 2.8: ciphertext and tag."""
    pad = chacha20_stream(key, len(message), 1, nonce)
    ciphertext = bytes(x ^ y for x, y in zip(message, pad, strict=True))
    one_time = chacha20_block(key, 0, nonce)
    r = int.from_bytes(one_time[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    hashed = _padded(context) + _padded(ciphertext)
    hashed += len(context).to_bytes(8, "little") + len(ciphertext).to_bytes(8, "little")
    total = 0
    for i in range(0, len(hashed), 16):
        total = (total + int.from_bytes(hashed[i : i + 16] + b"\x01", "little")) * r % PRIME_1305
    tag = (total + int.from_bytes(one_time[16:32], "little")) % 2**128
    return ciphertext + tag.to_bytes(16, "little")


SEALS: Mapping[str, Callable[[bytes, bytes, bytes, bytes], bytes]] = {
    "aes-256-ctr": gcm_seal,
    "chacha20": chacha20_poly1305_seal,
}


def seal(
    key: bytes,
    sender: str,
    receiver: str,
    kind: str,
    counter: int,
    message: bytes,
    run: tuple[bytes, bytes, int],
    algorithm: str,
) -> bytes:
    """One sealed message as it crosses the hub; `key` is K_ij, `run` is (plan hash, run id, epoch)."""
    direction = hkdf_expand(key, fields("hansa sealing key v1", algorithm, sender, receiver))
    context = fields("hansa sealed message v1", *run, sender, receiver, kind, counter)
    number = counter.to_bytes(8, "little")
    return number + SEALS[algorithm](direction, bytes(4) + number, message, context)


def confirmation(key: bytes, sender: str, receiver: str, roster: bytes) -> bytes:
    """The key-confirmation tag that `sender` sends to `receiver`."""
    mac_key = hkdf_expand(key, fields("hansa key confirmation v1", sender, receiver))
    return hmac.new(mac_key, roster, hashlib.sha256).digest()


def without_zero_word(total):
    """The sum of all parties' masked vectors without its closing zero word; None where that is not zero: the masks did not cancel."""
    return None if total[-1] else total[:-1]
