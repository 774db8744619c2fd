"""This member's keys, opened for one signature and let go of again. A passphrase is never kept."""

from __future__ import annotations

import os

from hansa.consortium.identity import IDENTITY_KEY_FILE, TLS_KEY_FILE, TOKEN_FILE, Identity, load_identity
from hansa.consortium.key_files import PASSPHRASE_VARIABLE, Unlocking, is_encrypted
from hansa.errors import IdentityError
from hansa.files import read_whole
from hansa.service.config import Consortium


def asks_passphrase(consortium: Consortium) -> bool:
    """Whether a person must type the passphrase of this member's keys: they are encrypted, and no key file or variable opens them."""
    if consortium.key_file is not None or os.environ.get(PASSPHRASE_VARIABLE):
        return False
    name = TLS_KEY_FILE if (consortium.folder / TOKEN_FILE).exists() else IDENTITY_KEY_FILE
    try:
        return is_encrypted(read_whole(consortium.folder / name))
    except (OSError, ValueError):
        return False  # opening them says what is wrong


def signer(consortium: Consortium, passphrase: str) -> Identity:
    """This member's keys, opened.

    Args:
        passphrase: as a person typed it; empty where none is asked for.

    Raises IdentityError; never quotes the passphrase.
    """
    if asks_passphrase(consortium) and not passphrase:
        raise IdentityError("this member's keys are encrypted: type their passphrase to sign")
    return load_identity(consortium.folder, Unlocking(consortium.key_file, lambda _: passphrase))
