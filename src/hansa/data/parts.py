"""A table in several Parquet files: those of a folder, or those that a pattern names. Their order is that of their names.

Here names become paths, and nothing is opened. DuckDB never sees a pattern: it reaches each file by its descriptor (`files`).
"""

from __future__ import annotations

import glob
from pathlib import Path

from hansa.errors import DataError

PARQUET = (".parquet", ".pq")
"""What the names of the files end in, in any case."""

MOST_PARTS = 400
"""Files of one table: each is held open, and systems allow a process about 1,000 open files."""

_HIDDEN = ("_", ".")
"""What the names of files begin with that programs write beside the parts of a table, such as _SUCCESS."""


def is_pattern(path: Path) -> bool:
    """Whether this is no path of something that is there, and `*`, `?` or `[` makes a pattern of it."""
    if not glob.has_magic(str(path)) or "\0" in str(path):
        return False
    try:
        return not path.exists()
    except OSError:  # such as a name that is too long
        return False


def is_folder(path: Path) -> bool:
    """Whether a folder stands there, also where the system would not look."""
    try:
        return path.is_dir()
    except OSError:
        return False


def parts_of(path: Path) -> tuple[Path, ...] | None:
    """The files of a folder or of a pattern, in the order of their names; None where `path` is neither.

    Raises DataError: there is none, there are too many, or something else stands among them.
    """
    if is_pattern(path):
        parts = [Path(name) for name in sorted(glob.glob(str(path)))]  # noqa: PTH207 (which takes no absolute pattern)
        if not parts:
            raise DataError(f"{path}: expected a file, found none, and no file that this pattern names; check the path")
        what = "a pattern that names Parquet files only"
    elif is_folder(path):
        try:
            parts = sorted(part for part in path.iterdir() if not part.name.startswith(_HIDDEN))
        except OSError as error:
            raise DataError(
                f"{path}: expected a folder that can be read ({error.strerror}); check its permissions"
            ) from error
        if not parts:
            raise DataError(
                f"{path}: expected a file, found a folder without Parquet files; name a file, or a folder that holds some"
            )
        what = "a folder of Parquet files only"
    else:
        return None
    for part in parts:
        if is_folder(part):
            raise DataError(f"{path}: expected {what}, found the folder {part.name!r}; put all files into one folder")
        if not part.name.lower().endswith(PARQUET):
            raise DataError(
                f"{path}: expected {what}, found {part.name!r}; take it away, or write it as Parquet (name it .parquet or .pq)"
            )
    if len(parts) > MOST_PARTS:
        raise DataError(
            f"{path}: expected at most {MOST_PARTS} files, found {len(parts)}; write the table into fewer files"
        )
    return tuple(parts)
