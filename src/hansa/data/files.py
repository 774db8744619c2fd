"""A table, opened: CSV and Parquet through DuckDB, Arrow through pyarrow, queries. Every command opens its tables here.

DuckDB loads no extension, and reaches the opened file by its descriptor, so that no name from outside is a pattern, an address or part
of a statement. From DuckDB 1.2 on it can reach no other file; 1.1 has no such setting, and is told of no other.

Every cell of a CSV file stays text here: the meaning of a cell never depends on which rows were sampled to guess a type. The first
line always names the columns. Text is UTF-8, with or without a byte order mark.
"""

from __future__ import annotations

import csv
import errno
import gzip
import io
import os
import re
import shutil
import stat
import tempfile
import threading
import zlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import accumulate, chain, zip_longest
from pathlib import Path
from typing import IO, Any, Literal, TypeVar, cast

import duckdb

from hansa.data.database import read_parts, read_table
from hansa.data.parts import PARQUET, parts_of
from hansa.data.query import DatabaseQuery, Parts, Query, Source
from hansa.data.schema import Level
from hansa.errors import DataError, in_words
from hansa.files import temporary, temporary_folder

CHUNK = 1 << 20
"""Bytes of a file read at a time."""

WIDE = 256
"""Expressions that one statement takes at most; a CSV file with more columns is read into memory first, so that it is scanned once."""

BATCH = 64
"""Expressions of one statement where there are more: DuckDB plans in the square of their number."""

SAMPLE_CELLS = 5_000_000
"""Of a sample of rows, in memory at once."""

Item = TypeVar("Item")

LONGEST_HEADER = 1 << 24
"""Characters of a header line."""

LONGEST_LINE = 2_000_000
"""Bytes of another line that DuckDB takes."""

WIDE_DECIMAL = 38
"""Digits of a decimal that DuckDB holds."""

WRONG_WIDE_DECIMALS = int(duckdb.__version__.split(".")[0]) < 2
"""Before release 2 DuckDB gives other numbers for Parquet's decimals of more digits, without a word."""

LONGEST_REASON = 300
"""Characters of DuckDB's own words in an error."""

_DELIMITERS = {".tsv": "\t,;|"}
_ANY_DELIMITER = ",;\t|"

_EMPTY_CELLS = (b"", b'""')
_EDGE = 3
"""Bytes of a chunk's end that may belong with the next one's start: a delimiter and a quoted empty cell."""

REPAIR = "repair the file or write it again"
SAVE_AS_UTF8 = "save the table as UTF-8"

_OTHER_FORMATS = {
    b"\x1f\x8b": ("gzip data", "give it a name that ends in .csv.gz"),
    b"PK\x03\x04": ("a ZIP archive, such as an Excel file", "write the table as CSV or Parquet"),
    b"\xd0\xcf\x11\xe0": ("an old Excel file", "write the table as CSV or Parquet"),
    b"PAR1": ("Parquet data", "give it a name that ends in .parquet"),
    b"ARROW1": ("Arrow data", "give it a name that ends in .arrow"),
    b"BZh": ("bzip2 data", "unpack it"),
    b"\xfd7zXZ": ("xz data", "unpack it"),
    b"\x28\xb5\x2f\xfd": ("zstd data", "unpack it"),
    b"\xff\xfe": ("UTF-16 text", SAVE_AS_UTF8),
    b"\xfe\xff": ("UTF-16 text", SAVE_AS_UTF8),
}
"""What a file that should be text may begin with, and the cure."""


_SEPARATOR_LINE = re.compile(r'"?sep=\S?"?', re.IGNORECASE)
"""What Excel takes for the delimiter of a CSV file, above the header."""

Mark = tuple[int, int, bool]
"""Of an open file: its size, its time of change (ns), and whether it still has a name."""


@dataclass(frozen=True)
class Part:
    """One of the files of a table.

    Attributes:
        file: its path, as errors name it.
        first_row: of the table, from 0, that this file holds.
    """

    file: str
    first_row: int


@dataclass(frozen=True, eq=False)
class OpenTable:
    """An open table.

    Attributes:
        file: its path, as errors name it.
        names: of its columns, as written.
        types: DuckDB's; of a CSV file all VARCHAR.
        connection: its own; `relation` stands after FROM and has the columns c0, c1, ...; `parameters` fill its marks.
        odd: whether a text may hold `_` or `+-`, which DuckDB takes for parts of a number.
        handle: the open file, or files, closed with the connection by `with`.
        explain: says in our own words what is wrong with a file that DuckDB refused.
        parts: the files of a table that has several, in the order of their rows.
        given: an Arrow table that `relation` names where it names no file.
    """

    file: str
    names: tuple[str, ...]
    types: tuple[str, ...]
    connection: duckdb.DuckDBPyConnection
    relation: str
    parameters: tuple[Any, ...]
    handle: IO[bytes] | ExitStack
    explain: Callable[[], str | None] = lambda: None
    odd: bool = True
    parts: tuple[Part, ...] = ()
    given: Any = None

    def __enter__(self) -> OpenTable:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close connection and file; safe to call twice."""
        self.connection.close()
        self.handle.close()

    @property
    def is_csv(self) -> bool:
        """Whether DuckDB reads this table from a CSV file."""
        return self.relation.startswith("read_csv(")

    @property
    def is_parquet(self) -> bool:
        """Whether DuckDB reads this table from Parquet files, of which it can read single columns."""
        return self.relation.startswith("read_parquet(")

    def count_rows(self) -> int:
        """Its rows. Raises DataError."""
        found = self._ask(f"SELECT count(*) FROM {self.relation}", self.parameters, lambda answer: answer.fetchone())
        return int(found[0])

    def blocks(self, rows: int) -> Iterator[tuple[int, OpenTable]]:
        """The rows of Parquet files in blocks of at most so many, in order: the first row of each, from 0, and a table of its cells,
        which is not to be closed.

        Several small files are one block. A file with a column `file_row_number` is a block, whatever its size: that is what DuckDB
        calls the numbers of rows. Raises DataError.
        """
        total, sources = self.count_rows(), self._sources
        starts = [part.first_row for part in self.parts] or [0]
        divides = "file_row_number" not in map(str.lower, self.names)
        begun, together = 0, list[str]()
        for source, start, end in zip(sources, starts, [*starts[1:], total], strict=True):
            if together and end - begun > rows:
                yield begun, self._of_files(together)
                together = []
            if not together:
                begun = start
            if end - start <= rows or not divides:
                together.append(source)
                continue
            for first in range(0, end - start, rows):
                yield start + first, self._of_rows(source, first, first + rows)
        if together:
            yield begun, self._of_files(together)

    def _of_files(self, sources: list[str]) -> OpenTable:
        return replace(self, parameters=(sources,), parts=())

    def _of_rows(self, source: str, first: int, end: int) -> OpenTable:
        """Rows of one file, from 0. Where DuckDB is new enough, it reads no row group but theirs."""
        cells = _aliases(len(self.names))
        numbered = f"read_parquet(?, hive_partitioning = false, file_row_number = true) AS t({cells}, number)"
        chosen = f"(SELECT {cells} FROM {numbered} WHERE number >= {first} AND number < {end}) AS t"
        return replace(self, relation=chosen, parameters=(source,), parts=())

    def marks(self) -> tuple[Mark, ...]:
        """What each of its Parquet files is like."""
        found = [os.stat(source) for source in self._sources]  # noqa: PTH116 (a link to an open file)
        return tuple((each.st_size, each.st_mtime_ns, each.st_nlink > 0) for each in found)

    def check_marks(self, marks: tuple[Mark, ...]) -> None:
        """Refuse files that are not what they were. Raises DataError naming the first one."""
        names = [part.file for part in self.parts] or [self.file]
        for name, before, now in zip(names, marks, self.marks(), strict=True):
            if before != now:
                raise DataError(self.changed(name, "a file that was written to, replaced or removed"))

    @staticmethod
    def changed(file: str, found: str) -> str:
        """The error where what was read before is no more there."""
        return (
            f"{file}: expected the rows that were checked when the run began, found {found}; write nothing to a table while it is "
            "read by column, and start the run again"
        )

    @property
    def _sources(self) -> list[str]:
        (given,) = self.parameters
        return [given] if isinstance(given, str) else list(given)

    @property
    def places(self) -> dict[str, int]:
        """The columns whose name no other one has, by name."""
        counts = Counter(self.names)
        return {name: place for place, name in enumerate(self.names) if counts[name] == 1}

    def place(self, row: int) -> tuple[str, int]:
        """Where a row (from 0) stands, for an error: its file, and its number there, from 1."""
        if not self.parts:
            return self.file, row + 1
        # Of a file without rows the next one has the same first row, and stands behind it.
        part = self.parts[bisect_right([part.first_row for part in self.parts], row) - 1]
        return part.file, row - part.first_row + 1

    def cells(self, places: Sequence[tuple[int, int]]) -> list[str | None]:
        """Cells as texts, None where missing, by column and row, both from 0."""
        found: list[str | None] = []
        for batch in _batches(places):
            chosen = ", ".join(f"max(c{column}::VARCHAR) FILTER (number = {row + 1})" for column, row in batch)
            needed = ", ".join(sorted({f"c{column}" for column, _ in batch}))
            numbered = f"(SELECT {needed}, row_number() OVER () AS number FROM {self.relation})"
            statement = f"SELECT {chosen} FROM {numbered}"
            found += self._ask(statement, self.parameters, lambda answer: answer.fetchone()) or [None] * len(batch)
        return found

    def fetch(self, expressions: Sequence[str], parameters: Sequence[Sequence[Level] | None] = ()) -> list[Any]:
        """The values of expressions in every row, as DuckDB's NumPy arrays; an expression's parameter, if any, fills its mark.

        Raises DataError.
        """
        arrays = []
        for batch in _batches(list(zip_longest(expressions, parameters))):
            selection = ", ".join(f"{expression} AS v{i}" for i, (expression, _) in enumerate(batch))
            marks = [list(parameter) for _, parameter in batch if parameter is not None]
            statement = f"SELECT {selection} FROM {self.relation}"
            fetched = self._ask(statement, [*marks, *self.parameters], lambda answer: answer.fetchnumpy())
            arrays += [fetched.pop(f"v{i}") for i in range(len(batch))]
        return arrays

    def in_memory(self) -> OpenTable:
        """The same table, its cells read once."""
        self._ask(f"CREATE TABLE cells AS SELECT * FROM {self.relation}", self.parameters, lambda _: None)
        return replace(self, relation="cells", parameters=())

    def sample(self, rows: int, limit_s: float) -> OpenTable:
        """At most so many of its rows, and about `SAMPLE_CELLS` cells, in memory: which ones, chance decides. Close this table, not it.

        Raises DataError, also where that takes longer than `limit_s` seconds.
        """
        rows = min(rows, SAMPLE_CELLS // len(self.names) + 1)
        late = threading.Timer(limit_s, self.connection.interrupt)
        late.daemon = True
        statement = f"CREATE TABLE cells AS SELECT * FROM {self.relation} USING SAMPLE reservoir({rows} ROWS)"
        late.start()
        try:
            self.connection.execute(statement, list(self.parameters))
        except duckdb.InterruptException:
            raise DataError(
                f"{self.file}: no sample of {rows:,} rows was drawn within {limit_s:g} s; `hansa schema` looks at all rows"
            ) from None
        except duckdb.Error as error:
            raise _unreadable(self.file, self.explain() or _reason(error)) from error
        finally:
            late.cancel()
        return replace(self, relation="cells", parameters=(), parts=())

    def _ask(self, statement: str, parameters: Sequence[Any], take: Callable[[duckdb.DuckDBPyConnection], Any]) -> Any:
        """What `take` makes of the answer; DuckDB may read the file's later parts only while the answer is taken."""
        try:
            return take(self.connection.execute(statement, list(parameters)))
        except duckdb.Error as error:
            raise _unreadable(self.file, self.explain() or _reason(error)) from error


def _batches(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """What one statement takes."""
    size = WIDE if len(items) <= WIDE else BATCH
    for start in range(0, len(items), size):
        yield items[start : start + size]


def open_table(source: Source) -> OpenTable:
    """Open a table: a file, a folder or a pattern of Parquet files, or what a query finds.

    Raises DataError: there is no such file, its ending is not known, it is not what its ending says, the files of a table are not
    alike, the query is not one that reads the named files only, or a database does not answer it.
    """
    if isinstance(source, Query):
        return _open_query(source)
    if isinstance(source, DatabaseQuery):
        return _open_arrow_table(f"the result of {source.where}", read_table(source), io.BytesIO())
    if isinstance(source, Parts):
        return _open_parts(source.table, source.files)
    table = _open_path(source)
    # A wide table of texts is scanned once.
    return table.in_memory() if table.is_csv and len(table.names) > WIDE else table


def open_sample(path: str | Path, rows: int, limit_s: float) -> OpenTable:
    """At most so many rows of a file, or of a folder or a pattern of Parquet files, drawn at random; the others pass by.

    Raises DataError: as `open_table`; the file is read into memory as a whole; `OpenTable.sample`.
    """
    if _OPENERS.get(_ending(Path(path))) is _open_arrow:
        raise DataError(f"{path}: expected a file that is read in parts, found Arrow data; write it as Parquet")
    table = _open_path(path)
    try:
        return table.sample(rows, limit_s)
    except BaseException:
        table.close()
        raise


def _open_path(path: str | Path) -> OpenTable:
    """Open a file, or a folder or a pattern of Parquet files."""
    path = Path(path)
    parts = parts_of(path)
    if parts is not None:
        return _open_parts(path, parts)
    _check_file(path)
    opener = _OPENERS.get(_ending(path))
    if opener is None:
        raise DataError(
            f"{path}: expected a file ending in one of {', '.join(_OPENERS)}, "
            f"found {path.suffix or 'no ending'!r}; write the table in one of these formats"
        )
    handle = None
    try:
        handle = path.open("rb")
        return opener(path, handle)
    except Exception as error:
        if handle is not None:
            handle.close()
        if isinstance(error, duckdb.Error | OSError | EOFError | csv.Error):
            raise _unreadable(str(path), _reason(error)) from error
        raise


def is_parquet(source: Source) -> bool:
    """Whether this is a Parquet file, or a folder or a pattern of them. Raises DataError as `open_table` for the last two."""
    if isinstance(source, Query | DatabaseQuery):
        return False
    if isinstance(source, Parts):
        return True
    return _ending(Path(source)) in PARQUET or parts_of(Path(source)) is not None


def _check_file(path: Path) -> None:
    """Refuse what is no file that this process may read. Raises DataError."""
    found, cure = "none", "check the path"
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            path.open("rb").close()
            return
        found, cure = "a pipe or a device", "write the table into a file first"
    except FileNotFoundError:
        pass
    except OSError as error:
        found, cure = f"none that can be opened ({error.strerror})", "check the path and its permissions"
    except ValueError:
        cure = "a path holds no zero byte"
    raise DataError(f"{path}: expected a file, found {found}; {cure}")


def _ending(path: Path) -> str:
    """The longest ending that is known, or "": .csv.gz is one."""
    name = path.name.lower()
    return max((ending for ending in _OPENERS if name.endswith(ending)), key=len, default="")


def _unreadable(file: str, reason: str, cure: str = REPAIR) -> DataError:
    return DataError(f"{file}: expected a readable table, found: {reason}; {cure}")


def _reason(error: Exception) -> str:
    text = re.split(r"Possible fixes|Possible [Ss]olution|LINE 1:", str(error))[0]
    echo = r"Original Line: .*?(?=Maximum line|Expected|Value with|Invalid unicode|$)"
    text = re.sub(echo, "", text, flags=re.DOTALL)[:LONGEST_REASON]
    return " ".join(re.sub(r"(?:[Ff]ile )?[\"']?/proc/self/fd/\d+[\"']?", "the file", text).split())


def connect(*paths: Path) -> duckdb.DuckDBPyConnection:
    """A DuckDB of its own that loads no extension, and from version 1.2 on reaches no file but `paths`. Its settings are locked."""
    connection = _connect()
    reachable = not paths
    if paths:
        try:
            # Within a list literal a quote is written twice.
            quoted = ", ".join("'" + str(path).replace("'", "''") + "'" for path in paths)
            connection.execute(f"SET allowed_paths = [{quoted}]")
            reachable = True
        except duckdb.CatalogException:
            pass  # DuckDB 1.1
    if reachable:
        connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def _connect(file: str = ":memory:") -> duckdb.DuckDBPyConnection:
    """A DuckDB of its own, in memory or in a file, that loads no extension; what it reaches is not limited yet."""
    return duckdb.connect(file, config={"autoinstall_known_extensions": False, "autoload_known_extensions": False})


@contextmanager
def writing_table(
    path: Path, kind: Literal["csv", "parquet"]
) -> Iterator[tuple[duckdb.DuckDBPyConnection, Callable[[str], None]]]:
    """A DuckDB that reaches no file but `path`, and a function that writes a query's rows there.

    Raises OSError where the file cannot be opened or written, as on a full disk.
    """
    with path.open("wb") as handle:
        target = _descriptor(handle)
        connection = connect(Path(target))

        def write(query: str) -> None:
            form = "csv, HEADER true" if kind == "csv" else "parquet"
            try:
                connection.execute(f"COPY ({query}) TO '{target}' (FORMAT {form}, USE_TMP_FILE false)")
            except duckdb.IOException as error:
                code = errno.ENOSPC if shutil.disk_usage(path.parent).free < CHUNK else errno.EIO
                raise OSError(code, os.strerror(code)) from error

        try:
            yield connection, write
        finally:
            connection.close()


def _descriptor(handle: IO[bytes]) -> str:
    return f"/proc/self/fd/{handle.fileno()}"


def _aliases(n_columns: int) -> str:
    return ", ".join(f"c{index}" for index in range(n_columns))


# --- CSV ---------------------------------------------------------------------------------------------------


def _open_csv(path: Path, handle: IO[bytes]) -> OpenTable:
    packed = path.name.lower().endswith(".gz")
    odd, trailing = _scan(path, packed)
    _refuse_other_formats(path, packed)
    names, delimiter = _read_header(path, packed)
    if trailing and _may_have_cells_too_many(path, packed, delimiter, len(names)):
        fault = _fault_of_csv(path, packed, delimiter, len(names))
        if fault is not None and fault.endswith(" columns"):
            raise _unreadable(str(path), fault)
    columns = ", ".join(f"'c{index}': 'VARCHAR'" for index in range(len(names)))
    relation = (
        f"read_csv(?, delim = '{delimiter}', quote = '\"', escape = '\"', header = true, "
        f"auto_detect = false, columns = {{{columns}}}, compression = '{'gzip' if packed else 'none'}', "
        "hive_partitioning = false)"
    )
    source = _descriptor(handle)
    return OpenTable(
        str(path),
        names,
        ("VARCHAR",) * len(names),
        connect(Path(source)),
        relation,
        (source,),
        handle,
        lambda: _fault_of_csv(path, packed, delimiter, len(names)),
        odd,
    )


def _open_bytes(path: Path, packed: bool) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, "rb")) if packed else path.open("rb")


def _scan(path: Path, packed: bool) -> tuple[bool, bool]:
    """Read a file to its end; returns whether `_` or `+-` occurs behind the first line, and whether a line may end in an empty cell.

    Of a gzip file this compares the checksums, which DuckDB does not; its older versions take a file that was cut off for a short one.
    Lines longer than DuckDB takes are refused here: of a large file it leaves out a last one without a word.
    """
    odd, trailing, before, length = False, False, b"", 0
    with _open_bytes(path, packed) as stream:
        try:
            # Where lines end in \r alone, this "line" is much more than the first one.
            first, _, behind = stream.readline(LONGEST_HEADER).partition(b"\r")
            known = [each.encode() for each in _ANY_DELIMITER]
            signs = [each + cell for each in [one for one in known if one in first] or known for cell in _EMPTY_CELLS]
            empty = [sign + end for sign in signs for end in (b"\n", b"\r")]
            for chunk in filter(None, chain((behind,), iter(lambda: stream.read(CHUNK), b""))):
                edge = before + chunk[:_EDGE]
                trailing = trailing or any(each in chunk or each in edge for each in empty)
                odd = odd or b"_" in chunk or b"+-" in chunk or b"+-" in edge
                before = (before + chunk)[-_EDGE:] if len(chunk) < _EDGE else chunk[-_EDGE:]
                ends = [chunk.find(b"\n"), chunk.find(b"\r")]
                length += min((end for end in ends if end >= 0), default=len(chunk))
                if length > LONGEST_LINE:
                    raise _unreadable(str(path), f"a line of more than {LONGEST_LINE} bytes")
                if max(ends) >= 0:
                    length = len(chunk) - 1 - max(chunk.rfind(b"\n"), chunk.rfind(b"\r"))
        except (OSError, EOFError, zlib.error) as error:
            if not packed:
                raise
            raise _unreadable(str(path), f"broken gzip data ({in_words(error)})") from error
    return odd, trailing or before.endswith(tuple(signs))


def _may_have_cells_too_many(path: Path, packed: bool, delimiter: str, n_columns: int) -> bool:
    """Whether a line that ends in an empty cell has more delimiters than the header allows: DuckDB drops such cells without a word."""
    sign = delimiter.encode()
    with suppress(csv.Error), _open_bytes(path, packed) as stream:
        for line in _lines(stream):
            text = line.rstrip(b"\r\n")
            if text.endswith(tuple(sign + cell for cell in _EMPTY_CELLS)) and text.count(sign) >= n_columns:
                return True
    return False


def _refuse_other_formats(path: Path, packed: bool) -> None:
    with _open_bytes(path, packed) as stream:
        start = stream.read(64)
    for magic, (what, cure) in _OTHER_FORMATS.items():
        if start.startswith(magic):
            raise _unreadable(str(path), what, cure)
    if b"\0" in start:
        raise _unreadable(str(path), "zero bytes (UTF-16, or no text at all)", SAVE_AS_UTF8)


def _read_header(path: Path, packed: bool) -> tuple[tuple[str, ...], str]:
    lines: list[str] = []
    with _open_bytes(path, packed) as stream:
        for line in _decoded(stream):
            lines.append(line)
            # A quoted name may hold a line break.
            if sum(part.count('"') for part in lines) % 2 == 0 or sum(map(len, lines)) > LONGEST_HEADER:
                break
    first = "".join(lines)
    if _SEPARATOR_LINE.fullmatch(first.strip()):
        raise _unreadable(
            str(path), f"a first line {first.strip()!r}, which spreadsheets alone read", "delete that line"
        )
    unquoted = re.sub(r'"[^"]*"', "", first)
    candidates = _DELIMITERS.get(_ending(path).removesuffix(".gz"), _ANY_DELIMITER)
    delimiter = max(candidates, key=unquoted.count)
    try:
        names = next(csv.reader(lines, delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        raise csv.Error(
            f"a quoted name in the header without its closing quote, or with text behind it ({error})"
        ) from error
    if not names:
        raise DataError(f"{path}: expected a header line with column names, found none; write one")
    return tuple(names), delimiter


class _NotText(csv.Error):
    """A line is no UTF-8."""


class _TooLong(csv.Error):
    """A line is longer than any header."""


def _decoded(stream: IO[bytes]) -> Iterator[str]:
    """Lines of UTF-8 text with their ends. Raises csv.Error naming the first line that is no UTF-8."""
    for number, line in enumerate(_lines(stream), 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            text = f"line {number} holds bytes that are not UTF-8 text ({SAVE_AS_UTF8})"
            raise _NotText(text) from error


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    """Lines that end in \\n, \\r\\n or \\r. Raises csv.Error where one is longer than any header, so that memory stays bounded."""
    rest = b""
    while chunk := stream.readline(LONGEST_HEADER):
        *lines, rest = (rest + chunk).splitlines(keepends=True)
        yield from lines
        if chunk.endswith(b"\n"):
            yield rest
            rest = b""
        elif len(rest) > LONGEST_HEADER:
            raise _TooLong(f"a line of more than {LONGEST_HEADER} bytes")
    if rest:
        yield rest


def _fault_of_csv(path: Path, packed: bool, delimiter: str, n_columns: int) -> str | None:
    """What is wrong with a file that DuckDB refused: the first row that is not like the header. None where none is found."""
    ends: set[str] = set()

    def noted(lines: Iterator[str]) -> Iterator[str]:
        for line in lines:
            ends.add(line[len(line.rstrip("\r\n")) :])
            yield line

    row = 0
    try:
        with _open_bytes(path, packed) as stream:
            for row, cells in enumerate(
                filter(None, csv.reader(noted(_decoded(stream)), delimiter=delimiter, strict=True))
            ):
                if len(cells) != n_columns:
                    return f"row {row} has {len(cells)} cells, where the header names {n_columns} columns"
    except _NotText as error:
        return str(error)
    except _TooLong as error:
        return f"behind row {row}, {error}"
    except csv.Error as error:
        if "field limit" in str(error):  # Python's own words: the module has no other sign of it
            return None
        return f"row {row + 1}: a quoted cell without its closing quote, or with text behind it ({error})"
    if len(ends - {""}) > 1:
        return "lines that end in different ways (\\n, \\r\\n, \\r)"
    return None


# --- Parquet and Arrow -------------------------------------------------------------------------------------


def _open_parquet(path: Path, handle: IO[bytes]) -> OpenTable:
    source = _descriptor(handle)
    connection = connect(Path(source))
    names, types = _parquet_columns(connection, source, path)
    relation = f"read_parquet(?, hive_partitioning = false) AS t({_aliases(len(names))})"
    return OpenTable(str(path), names, types, connection, relation, (source,), handle)


def _open_parts(path: Path, parts: Sequence[Path]) -> OpenTable:
    """Open several Parquet files as one table. The first one says which columns there are."""
    with ExitStack() as handles:
        sources = []
        for part in parts:
            _check_file(part)
            try:
                sources.append(_descriptor(handles.enter_context(part.open("rb"))))
            except OSError as error:
                raise _unreadable(str(part), _reason(error), "write the table into fewer files") from error
        connection = connect(*map(Path, sources))
        handles.callback(connection.close)
        counts, first = [], None
        for part, source in zip(parts, sources, strict=True):
            try:
                names, types = _parquet_columns(connection, source, part)
                (rows,) = connection.execute("SELECT num_rows FROM parquet_file_metadata(?)", [source]).fetchall()[0]
            except duckdb.Error as error:
                raise _unreadable(str(part), _reason(error)) from error
            first = first or (part, names, types)
            _check_alike(part, names, types, *first)
            counts.append(rows)
        assert first is not None
        _, names, types = first
        relation = f"read_parquet(?, hive_partitioning = false) AS t({_aliases(len(names))})"
        starts = accumulate(counts[:-1], initial=0)
        return OpenTable(
            str(path),
            names,
            types,
            connection,
            relation,
            (sources,),
            handles.pop_all(),
            lambda: _fault_of_parts(connection, parts, sources),
            parts=tuple(Part(str(part), start) for part, start in zip(parts, starts, strict=True)),
        )


def _check_alike(
    part: Path,
    names: tuple[str, ...],
    types: tuple[str, ...],
    first: Path,
    first_names: tuple[str, ...],
    first_types: tuple[str, ...],
) -> None:
    """Refuse a file whose columns are not those of the first file. Raises DataError."""
    cure = "write all files of a table alike"
    for name in first_names:
        if name not in names:
            raise DataError(f"{part}: expected the column {name!r}, as in {first}, found none of this name; {cure}")
    for name in names:
        if name not in first_names:
            raise DataError(f"{part}, column {name!r}: expected only the columns of {first}, found one more; {cure}")
    for place, (name, expected) in enumerate(zip_longest(names, first_names), 1):
        if name != expected:
            raise DataError(
                f"{part}, column {place}: expected {expected!r}, as in {first}, found {name!r}; "
                "write the columns of all files in one order"
            )
    for name, kind, expected in zip(names, types, first_types, strict=True):
        if kind != expected:
            raise DataError(
                f"{part}, column {name!r}: expected the type {expected:.60}, as in {first}, found {kind:.60}; {cure}"
            )


def _fault_of_parts(connection: duckdb.DuckDBPyConnection, parts: Sequence[Path], sources: Sequence[str]) -> str | None:
    """Which file of a table it is that DuckDB cannot read, and why. None where each can be read by itself."""
    for part, source in zip(parts, sources, strict=True):
        try:
            connection.execute("SELECT max(hash(t)) FROM read_parquet(?, hive_partitioning = false) AS t", [source])
        except duckdb.Error as error:
            return f"{part.name}: {_reason(error)}"
    return None


def _parquet_columns(
    connection: duckdb.DuckDBPyConnection, source: str, path: Path
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names as written, and DuckDB's types."""
    names = _parquet_names(connection, source, path)
    relation = f"read_parquet(?, hive_partitioning = false) AS t({_aliases(len(names))})"
    described = connection.execute(f"DESCRIBE SELECT * FROM {relation}", [source]).fetchall()
    return names, tuple(str(row[1]) for row in described)


def _parquet_names(connection: duckdb.DuckDBPyConnection, source: str, path: Path) -> tuple[str, ...]:
    # The schema as written, depth first: DuckDB's own listing would rename repeated columns.
    elements = connection.execute(
        "SELECT name, num_children, converted_type, precision FROM parquet_schema(?)", [source]
    ).fetchall()
    names, nested = [], 0
    for name, children, kind, precision in elements[1:]:
        if kind == "DECIMAL" and precision > WIDE_DECIMAL and WRONG_WIDE_DECIMALS:
            raise _unreadable(
                str(path),
                f"column {str(name)!r} of decimals with {precision} digits, which DuckDB {duckdb.__version__} reads wrongly",
                "cast it to DOUBLE where the file is written, or install DuckDB 2",
            )
        if nested == 0:
            names.append(str(name))
        nested = max(nested - 1, 0) + (children or 0)
    return tuple(names)


def _open_arrow(path: Path, handle: IO[bytes]) -> OpenTable:
    try:
        import pyarrow as pa
        from pyarrow import feather, ipc
    except ImportError as error:
        raise DataError(
            f"{path}: reading Arrow files needs the package pyarrow, which is missing; "
            "install it with: pip install 'hansa[arrow]'"
        ) from error
    try:
        # Arrow streams begin without the magic bytes of Arrow and Feather files.
        is_file = handle.read(4) in (b"ARRO", b"FEA1")
        handle.seek(0)
        table = feather.read_table(handle) if is_file else ipc.open_stream(handle).read_all()
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(str(path), " ".join(str(error).split())) from error
    return _open_arrow_table(str(path), table, handle)


def _open_arrow_table(file: str, table: Any, handle: IO[bytes]) -> OpenTable:
    """An Arrow table (pyarrow.Table), opened like a file of this name."""
    import pyarrow as pa

    names = tuple(table.column_names)
    try:
        table = table.rename_columns([f"c{index}" for index in range(len(names))])
        table = table.cast(pa.schema([pa.field(field.name, _readable(field.type, pa)) for field in table.schema]))
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(file, " ".join(str(error).split())) from error
    connection = connect()
    connection.register("arrow_table", table)
    described = connection.execute("DESCRIBE SELECT * FROM arrow_table").fetchall()
    types = tuple(str(row[1]) for row in described)
    return OpenTable(file, names, types, connection, "arrow_table", (), handle, given=table)


def open_by_column(query: Query | DatabaseQuery) -> OpenTable:
    """What a query finds, kept in a Parquet file instead of memory, so that columns can be read one by one.

    The file is this user's alone, in the folder for temporary files (TMPDIR), and has no name while it is written and read: nobody else
    opens it, and it is gone with the process, however that ends.

    Raises DataError: as `open_table`; there is no room for the file.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError(f"{query.where}: by_column = true needs pyarrow; pip install 'hansa[arrow]'") from error
    parts = read_parts(query) if isinstance(query, DatabaseQuery) else _parts_of_query(query)
    first = next(parts)

    name = f"the result of {query.where}"
    schema = pa.schema([pa.field(field.name, _readable(field.type, pa)) for field in first.schema])
    place = temporary_folder()
    try:
        descriptor, written = tempfile.mkstemp(suffix=".parquet", prefix="hansa-", dir=place)  # mode 0600
        path = Path(written)
        with os.fdopen(descriptor, "wb") as file:
            handle = path.open("rb")
            path.unlink()
            try:
                with pq.ParquetWriter(file, schema) as writer:
                    for part in chain([first], parts):
                        writer.write_table(part.cast(schema))
                file.flush()
                return replace(_open_parquet(path, handle), file=name)
            except BaseException:
                handle.close()
                raise
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{name}: expected room for it as a file in TMPDIR, {place}, found: {' '.join(str(error).split())}; make room, or have "
            "TMPDIR name another folder"
        ) from error


def _readable(kind: Any, pa: Any) -> Any:
    """The type in which DuckDB takes a column."""
    if pa.types.is_float16(kind):
        return pa.float32()
    if pa.types.is_dictionary(kind):
        return _readable(kind.value_type, pa)
    if pa.types.is_decimal256(kind):
        return pa.float64()
    return kind


# --- queries -----------------------------------------------------------------------------------------------

_RESULT = "result_of_query"
"""The schema of DuckDB in which the result lies, apart from the tables that the query reads."""

QUERY_MEMORY = "1GB"
"""What DuckDB takes of memory for a query whose result is read by column."""

PART_ROWS = 100_000
"""Of a query's result, in memory at once."""


def _open_query(query: Query) -> OpenTable:
    """Run a query over its files, and open what it finds.

    The files are read before, by the rules of `open_table`, and only our own statements run until then. After that DuckDB reaches
    no file and no variable of this process, and its settings are locked: the query finds nothing but these tables.
    """
    connection = _connect()
    try:
        statement = _with_tables(connection, query)
        try:
            described = connection.execute(f"DESCRIBE {statement}").fetchall()
            connection.execute(f"CREATE TABLE {_RESULT}.cells AS {statement}")
        except duckdb.Error as error:
            raise _refused_query(query, error) from error
    except BaseException:
        connection.close()
        raise
    names, types = (tuple(str(row[place]) for row in described) for place in (0, 1))
    relation = f"{_RESULT}.cells AS t({_aliases(len(names))})"
    return OpenTable(f"the result of {query.where}", names, types, connection, relation, (), io.BytesIO())


def _parts_of_query(query: Query) -> Iterator[Any]:
    """What a query over files finds, in parts, each an Arrow table; the first one has no rows.

    The files' rows and what the query needs beside are in a folder for a time, which is this user's alone, and not in memory.
    """
    import pyarrow as pa

    with temporary() as folder:
        connection = _connect(str(folder / "tables.duckdb"))
        try:
            connection.execute(f"SET memory_limit = '{QUERY_MEMORY}'")  # beyond that it writes beside its file
            statement = _with_tables(connection, query)
            try:
                found: Any = connection.sql(statement)
                # Its name before DuckDB 2.
                reader = (getattr(found, "to_arrow_reader", None) or found.fetch_arrow_reader)(PART_ROWS)
                yield reader.schema.empty_table()
                for batch in reader:
                    yield pa.Table.from_batches([batch])
            except (duckdb.Error, OSError) as error:  # pyarrow has one kind for what a reader says
                raise _refused_query(query, error) from error
        finally:
            connection.close()


def _with_tables(connection: duckdb.DuckDBPyConnection, query: Query) -> str:
    """Read a query's files into tables, and limit the connection to them; the statement. Raises DataError."""
    statement = _one_statement(connection, query)
    _check_table_names(query)
    for name, path in query.files.items():
        _copy_table(connection, name, path)
    connection.execute(f"CREATE SCHEMA {_RESULT}")
    connection.execute("SET python_enable_replacements = false")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return statement


def _refused_query(query: Query, error: Exception) -> DataError:
    """What DuckDB says of a query, in our words."""
    if isinstance(error, duckdb.PermissionException):
        return DataError(
            f"{query.where}: expected a query that reads {_tables(query)}, found one that reads files by itself; "
            "name each file in source.files"
        )
    if isinstance(error, duckdb.OutOfMemoryException):
        return DataError(
            f"{query.where}: expected files and a result that fit in memory together, found too little of it ({_reason(error)}); "
            "read fewer columns or rows"
        )
    return _bad_query(query, _reason(error))


def _tables(query: Query) -> str:
    return (
        f"the tables {', '.join(map(repr, query.files))} only" if query.files else "no table (source.files names none)"
    )


def _bad_query(query: Query, found: str) -> DataError:
    return DataError(
        f"{query.where}: expected one SELECT statement of DuckDB's SQL that reads {_tables(query)}, found: {found}; mend the query"
    )


def _one_statement(connection: duckdb.DuckDBPyConnection, query: Query) -> str:
    """The only statement of a query, which must be one that reads. Raises DataError."""
    try:
        statements = connection.extract_statements(query.sql)
    except duckdb.Error as error:
        raise _bad_query(query, _reason(error)) from error
    if len(statements) != 1:
        raise _bad_query(query, f"{len(statements)} statements")
    (statement,) = statements
    if statement.type == duckdb.StatementType.MULTI:
        raise _bad_query(query, "a PIVOT without the list of its columns (write them after IN)")
    if statement.type != duckdb.StatementType.SELECT:
        raise _bad_query(query, f"a statement of the kind {statement.type.name}")
    return str(statement.query)


def _check_table_names(query: Query) -> None:
    seen: dict[str, str] = {}
    for name in query.files:
        if not name or "\0" in name:
            raise DataError(f"{query.where}: {name!r} names a file in source.files; expected a name for a table")
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise DataError(
                f"{query.where}: {other!r} and {name!r} in source.files are one name in SQL, which does not tell A from a; rename one"
            )


def _copy_table(connection: duckdb.DuckDBPyConnection, name: str, path: Path) -> None:
    """Read a file into a table of this name; the cells of a CSV file are texts there."""
    with _open_path(path) as table:
        seen: dict[str, str] = {}
        for place, column in enumerate(table.names, 1):
            if not column or "\0" in column:
                raise DataError(f"{table.file}: column {place} has no name that SQL takes; name it, or drop it")
            if column.lower() in seen:
                raise DataError(
                    f"{table.file}, column {column!r}: expected names that SQL tells apart (it does not tell A from a), found "
                    f"{seen[column.lower()]!r} too; rename one of them"
                )
            seen[column.lower()] = column
        if table.given is not None:
            connection.register(table.relation, table.given)
        columns = ", ".join(f"c{place} AS {quoted(column)}" for place, column in enumerate(table.names))
        try:
            connection.execute(
                f"CREATE TABLE {quoted(name)} AS SELECT {columns} FROM {table.relation}", list(table.parameters)
            )
        except duckdb.Error as error:
            raise _unreadable(table.file, table.explain() or _reason(error)) from error
        if table.given is not None:
            connection.unregister(table.relation)


def quoted(name: str) -> str:
    """A name in SQL, whatever signs it holds."""
    return '"' + name.replace('"', '""') + '"'


_OPENERS: dict[str, Callable[[Path, IO[bytes]], OpenTable]] = {
    ".csv": _open_csv,
    ".csv.gz": _open_csv,
    ".tsv": _open_csv,
    ".tsv.gz": _open_csv,
    ".txt": _open_csv,
    ".txt.gz": _open_csv,
    **dict.fromkeys(PARQUET, _open_parquet),
    ".arrow": _open_arrow,
    ".feather": _open_arrow,
}
