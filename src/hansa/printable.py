"""Text that others wrote, made safe for a terminal and a log: the one place where it is filtered, just before it is printed.

Names of columns, reasons of other members and contents of files may hold control characters that move the cursor, colour the screen
or set its title, line breaks that look like a line of Hansa's own, and marks that turn the direction of writing. What is encoded as
JSON needs none of this but the last.
"""

from __future__ import annotations

import unicodedata

MOST_CHARACTERS = 4000
"""Of one line; what is longer is cut."""

_SHOWN = ("L", "M", "N", "P", "S")
"""First letters of the Unicode categories that are printed as they are: letters, marks, numbers, punctuation, symbols."""


def printable(text: str, most: int = MOST_CHARACTERS) -> str:
    """One line of text: what is not plainly visible is written as an escape, such as `\\x1b`, and what is too long is cut."""
    cut = f"... ({len(text) - most} characters more)" if len(text) > most else ""
    return "".join(map(_shown, text[:most])) + cut


def _shown(character: str) -> str:
    if character == " " or (character.isascii() and character.isprintable()):
        return character
    if unicodedata.category(character)[0] in _SHOWN:
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


def size(count: float) -> str:
    """Bytes for people, in powers of 1000."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
