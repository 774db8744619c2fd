"""Files that Hansa writes: whole or not at all, and by default for their owner only. And small files that it reads.

A file is written beside its place under another name, flushed to the disk, and then renamed: whoever reads it finds the old content
or the new, and a full disk leaves the old. What is no regular file (a pipe, `/dev/stdout`) is written as it stands.

What is read whole (a plan, a members file, a key) is read up to a limit, so that a file that never ends cannot fill the memory.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from hansa.errors import OutputError, in_words

PROBE_BYTES = 2**16
"""Bytes that must fit where a file is to be written, as is tried before a run."""

PART_BYTES = 2**20
"""Bytes of a file that are read at once."""

MOST_READ_BYTES = 64 * 2**20
"""Bytes that a plan, a members file, a member's file, a card or a key may have; a plan with cuts for a thousand features has 5 MB."""

MOST_MODEL_BYTES = 2**30
"""Of a model's file, as `trees.xgboost_json` reads it."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DEVICE = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT)


def failed(path: Path, error: OSError, *, what: str = "", folder: Path | None = None) -> OutputError:
    """The error that says why `path` cannot be written, and the cure.

    what: its name where it was given (a key, an option, a variable). folder: where the fault is, if `path` is to be a folder.
    """
    if what:
        told = failed(path, error, folder=folder)
        return OutputError(f"{what}: {told}", retry=told.retry)
    another, place = ("file", path.parent) if folder is None else ("folder", folder)
    why = error.strerror or str(error)
    if error.errno in FULL:
        return OutputError(f"{path}: no space is left for it ({why}); free space, then start again", retry=True)
    if error.errno in DEVICE:
        return OutputError(f"{path}: its device fails ({why}); mend it, then start again", retry=True)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(
            f"{path}: cannot be written ({why}); let this account write in {place}, or name another {another}"
        )
    return OutputError(f"{path}: cannot be written ({why}); name another {another}")


def read_whole(path: Path, most: int = MOST_READ_BYTES) -> bytes:
    """All bytes of a file, or of a pipe.

    Raises:
        ValueError: it has more than `most` bytes, or never ends, or the path holds a NUL. OSError: as `open`.
    """
    parts: list[bytes] = []
    left = most + 1
    with path.open("rb") as file:
        while left and (part := file.read(min(left, PART_BYTES))):  # memory as bytes come, not as many as may come
            parts.append(part)
            left -= len(part)
    if not left:
        raise ValueError(f"it has more than {most} bytes, or never ends; is it the right file?")
    return b"".join(parts)


def read_text(path: Path) -> str:
    """A file of UTF-8 text, with or without a byte order mark. Raises ValueError, OSError, as `read_whole`."""
    return read_whole(path).decode("utf-8-sig")


def write_whole(path: Path, content: bytes, *, private: bool = True) -> None:
    """Write a file. `private` gives it mode 0600; otherwise the account's umask decides. Raises OutputError."""
    with writing(path, private=private) as partial:
        partial.write_bytes(content)


@contextlib.contextmanager
def writing(path: Path, *, private: bool = True) -> Iterator[Path]:
    """A new, empty file to be filled; it takes the place of `path` once the block ends without an error.

    Raises OutputError for whatever the system says of either file; the content of `path` then stays as it was.
    """
    try:
        target = Path(os.path.realpath(path))
        device = _is_device(target)
        folder = temporary_folder() if device else target.parent
        partial = folder / f".{target.name[:100]}.{secrets.token_hex(4)}.partial"
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666))
    except (OSError, ValueError) as error:
        raise _named(path, error) from error
    try:
        yield partial
        if device:
            with partial.open("rb") as content, target.open("wb") as file:
                shutil.copyfileobj(content, file)
        else:
            if private:  # who filled it may have replaced it by a file of their own
                partial.chmod(0o600)
            _flush(partial)
            partial.replace(target)
            with contextlib.suppress(OSError):  # not every file system can flush a folder, and the file is there
                _flush(folder)
    except OSError as error:
        raise failed(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def make_folder(path: Path) -> None:
    """Make a folder for its owner only (mode 0700), and those above it. One that is there stays as it is. Raises OutputError."""
    try:
        for each in (*reversed(path.parents), path):  # `parents=True` would give those above the mode of the umask
            if not each.is_dir():
                each.mkdir(mode=0o700, exist_ok=True)
    except (OSError, ValueError) as error:
        raise _named(path, error) from error


def check_outputs(
    outputs: Mapping[str, Path | None], inputs: Mapping[str, Path | None], *, keys: Path | None = None
) -> None:
    """Refuse files that could not be written at the end, before any work is done for them.

    Args:
        outputs: what each file is called where it was named (an option or a key), and its path; None where it was not named.
        inputs: files that are read, in the same way.
        keys: a folder in which nothing may be written.

    Raises:
        OutputError: a folder is not there or cannot be written, the path is a folder, its disk is full, two outputs are one file,
            or an output is an input, or lies in a folder that is one.
    """
    written = {what: path for what, path in outputs.items() if path is not None}
    for what, path in written.items():
        _check_output(what, path)
    seen: dict[Path, str] = {}
    for what, path in written.items():
        real = Path(os.path.realpath(path))
        if _is_device(real):
            continue
        if keys is not None and Path(os.path.realpath(keys)) in (real, *real.parents):
            raise OutputError(f"{what}: {path} lies in the folder of keys {keys}; name a file elsewhere")
        for name, read in inputs.items():
            if read is not None and _same(real, read):
                raise OutputError(f"{what}: {path} is the same file as {name}, which is read; name another file")
            if read is not None and _takes_in(read, real):
                raise OutputError(
                    f"{what}: {path} lies among the files of {name} {read}, which are read; name a file elsewhere"
                )
        same = next((name for other, name in seen.items() if _same(real, other)), None)
        if same is not None:
            raise OutputError(f"{what}: {path} is the same file as {same}; name two files")
        seen[real] = what


def check_folder(
    what: str, path: Path, names: Iterable[str], others: Mapping[str, Path | None], *, keys: Path | None = None
) -> None:
    """Refuse a folder for files `names` that cannot be made, where one of them is there already, or is one of `others`.

    Raises OutputError. The folder is not made; the nearest one above it that is there must take new files.
    """
    try:
        real = Path(os.path.realpath(path))
        for name, other in others.items():
            if other is not None and any(_same(mine, other) for mine in (real, *(real / own for own in names))):
                raise OutputError(f"{what}: {path} is, or would hold, the file of {name}; name another folder")
        if keys is not None and Path(os.path.realpath(keys)) in (real, *real.parents):
            raise OutputError(f"{what}: {path} lies in the folder of keys {keys}; name a folder elsewhere")
        if path.exists() and not path.is_dir():
            raise OutputError(f"{what}: {path} is no folder; name a folder, or one that is not there yet")
        for name in names:
            if (path / name).exists():
                raise OutputError(f"{path / name}: there is a file of an earlier run already; name another folder")
        above = next(folder for folder in (path, *path.parents) if folder.exists())
    except (OSError, ValueError) as error:
        raise _named(path, error) from error
    _probe(path, above, what, folder=above)


def check_place(what: str, folder: Path) -> None:
    """Refuse a folder, `what` where it was named, that is not there or takes no file now. Raises OutputError."""
    try:
        if not folder.exists():
            raise OutputError(f"{what}: there is no folder {folder}; make it, or name another folder")
        if not folder.is_dir():
            raise OutputError(f"{what}: {folder} is no folder; name a folder")
    except (OSError, ValueError) as error:
        raise _named(folder, error) from error
    _probe(folder, folder, what, folder=folder)


def temporary_folder() -> Path:
    """The folder for temporary files: the one that TMPDIR names, or the system's. It takes files now.

    Where TMPDIR names a folder that takes none, Python goes on in another one without a word. Rows are written there, so it is refused.

    Raises OutputError.
    """
    for variable in ("TMPDIR", "TEMP", "TMP"):
        if named := os.environ.get(variable):
            check_place(variable, Path(named))
            return Path(named).absolute()
    try:
        return Path(tempfile.gettempdir())
    except OSError as error:
        cure = "have TMPDIR name a folder in which this account can write"
        raise OutputError(f"no folder takes temporary files ({in_words(error)}); {cure}", cure=cure) from error


@contextlib.contextmanager
def temporary() -> Iterator[Path]:
    """A new folder for temporary files, this user's alone, which is gone at the end. Raises OutputError."""
    place = temporary_folder()
    try:
        made = tempfile.TemporaryDirectory(prefix="hansa-", dir=place, ignore_cleanup_errors=True)
    except OSError as error:
        raise failed(place, error, what="TMPDIR", folder=place) from error
    with made as folder:
        yield Path(folder)


def _check_output(what: str, path: Path) -> None:
    try:
        if path.is_dir():
            raise OutputError(f"{what}: {path} is a folder; name a file in it")
        if not path.parent.exists():
            raise OutputError(f"{what}: {path}: there is no folder {path.parent}; make it, or name another file")
        if not path.parent.is_dir():
            raise OutputError(f"{what}: {path}: {path.parent} is no folder; name another file")
        real = Path(os.path.realpath(path))
        if _is_device(real):
            return
        if not real.parent.is_dir():
            raise OutputError(f"{what}: {path} is a link into {real.parent}, which is no folder; name another file")
    except (OSError, ValueError) as error:
        raise _named(path, error) from error
    _probe(path, real.parent, what)


def _probe(path: Path, place: Path, what: str, *, folder: Path | None = None) -> None:
    """Write and remove a small file in `place`: permissions alone do not say whether a folder can be written. The rest as `failed`."""
    probe = place / f".{secrets.token_hex(8)}.probe"
    try:
        try:
            descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                if os.write(descriptor, bytes(PROBE_BYTES)) != PROBE_BYTES:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                os.close(descriptor)
        finally:
            with contextlib.suppress(FileNotFoundError):
                probe.unlink()
    except OSError as error:
        raise failed(path, error, what=what, folder=folder) from error


def _is_device(path: Path) -> bool:
    """Whether something stands there that is neither a regular file nor a folder."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _same(real: Path, other: Path) -> bool:
    if real == Path(os.path.realpath(other)):
        return True
    try:
        return real.samefile(other)
    except OSError:
        return False  # one of them is not there


def _takes_in(read: Path, real: Path) -> bool:
    """Whether `read` is a folder, or a pattern of names, to which a file at `real` belongs, or would belong."""
    try:
        if read.is_dir():
            return real.parent == Path(os.path.realpath(read))
        return not read.exists() and real.match(os.path.realpath(read))
    except (OSError, ValueError):
        return False  # there is no such file


def _named(path: Path, error: OSError | ValueError) -> OutputError:
    if isinstance(error, OSError):
        return failed(path, error)
    return OutputError(f"{str(path)!r}: not a path ({error}); name another file")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
