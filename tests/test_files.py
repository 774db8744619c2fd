"""`hansa.files`: whole files or none, on full and foreign disks too."""

from __future__ import annotations

import errno
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import hansa.files
from hansa.errors import OutputError
from hansa.files import (
    PROBE_BYTES,
    check_folder,
    check_outputs,
    check_place,
    make_folder,
    read_text,
    read_whole,
    temporary,
    temporary_folder,
    write_whole,
    writing,
)

SMALL = 256 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "hansa-test", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no small file system can be mounted here: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def only(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_for_its_owner_only_unless_it_is_meant_for_others(tmp_path):
    before = os.umask(0o022)
    try:
        write_whole(tmp_path / "model.json", b"{}")
        write_whole(tmp_path / "report.html", b"<p>", private=False)
    finally:
        os.umask(before)
    assert (mode(tmp_path / "model.json"), mode(tmp_path / "report.html")) == (0o600, 0o644)
    assert only(tmp_path) == ["model.json", "report.html"]


def test_a_file_of_mode_0644_that_is_written_anew_is_for_its_owner_only(tmp_path):
    path = tmp_path / "model.json"
    path.write_bytes(b"old")
    path.chmod(0o644)
    write_whole(path, b"new")
    assert (path.read_bytes(), mode(path)) == (b"new", 0o600)


def test_what_fails_in_the_middle_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.json"
    path.write_bytes(b"old")

    class Fault(Exception):
        pass

    def write() -> None:
        with writing(path) as partial:
            partial.write_bytes(b"half of the ne")
            raise Fault

    with pytest.raises(Fault):
        write()
    assert path.read_bytes() == b"old"
    assert only(tmp_path) == ["model.json"]


def test_a_full_disk_leaves_the_old_file_and_may_be_tried_again(small_disk):
    path = small_disk / "model.json"
    write_whole(path, b"old")
    with pytest.raises(OutputError, match=r"model\.json: no space is left for it .*free space") as caught:
        write_whole(path, bytes(2 * SMALL))
    assert caught.value.retry
    assert path.read_bytes() == b"old"
    assert only(small_disk) == ["model.json"]


def test_a_disk_that_is_full_already_is_noticed_before_the_run(small_disk):
    check_outputs({"model": small_disk / "model.json"}, {})
    (small_disk / "filler").write_bytes(bytes(SMALL - PROBE_BYTES + 4096))
    for check in (
        lambda: check_outputs({"model": small_disk / "model.json"}, {}),
        lambda: check_folder("transcript", small_disk / "a" / "b", ["x.frames"], {}),
    ):
        with pytest.raises(OutputError, match="no space is left") as caught:
            check()
        assert caught.value.retry
    assert only(small_disk) == ["filler"]


def test_a_device_is_written_as_it_stands(tmp_path):
    assert not Path("/dev/null").is_file()
    check_outputs({"model": Path("/dev/null"), "record": Path("/dev/null")}, {})
    write_whole(Path("/dev/null"), b"{}")
    assert not Path("/dev/null").is_file()
    with pytest.raises(OutputError, match="no space is left") as caught:
        write_whole(Path("/dev/full"), b"{}")
    assert caught.value.retry


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "model.json").symlink_to(tmp_path / "there" / "real.json")
    write_whole(tmp_path / "model.json", b"{}")
    assert (tmp_path / "model.json").is_symlink()
    assert (tmp_path / "there" / "real.json").read_bytes() == b"{}"


def test_the_longest_name_can_be_written(tmp_path):
    path = tmp_path / ("m" * 250 + ".json")
    write_whole(path, b"{}")
    assert only(tmp_path) == [path.name]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOENT, errno.ELOOP])
def test_what_somebody_must_mend_is_not_to_be_tried_again(tmp_path, monkeypatch, number):
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("hansa.files.os.open", refuse)
    with pytest.raises(OutputError, match=os.strerror(number)) as caught:
        write_whole(tmp_path / "model.json", b"{}")
    assert not caught.value.retry


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_what_may_pass_is_to_be_tried_again(tmp_path, monkeypatch, number):
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("hansa.files.os.fsync", refuse)
    with pytest.raises(OutputError, match=os.strerror(number)) as caught:
        write_whole(tmp_path / "model.json", b"{}")
    assert caught.value.retry
    assert only(tmp_path) == []


def test_folders_are_for_their_owner_only_and_stay_as_they_are(tmp_path):
    tmp_path.chmod(0o755)
    make_folder(tmp_path / "transcript")
    make_folder(tmp_path)
    assert (mode(tmp_path / "transcript"), mode(tmp_path)) == (0o700, 0o755)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file"):
        make_folder(tmp_path / "file")


def test_an_output_that_cannot_be_written_is_named_before_the_run(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "astray").symlink_to(tmp_path / "none" / "model.json")
    for path, fragment in (
        (tmp_path / "none" / "model.json", "there is no folder"),
        (tmp_path / "file" / "model.json", "is no folder"),
        (tmp_path / "folder", "is a folder"),
        (tmp_path / "astray", "is no folder"),
        (Path("mo\0del.json"), "not a path"),
        (tmp_path / ("m" * 300), "cannot be written"),
    ):
        with pytest.raises(OutputError, match=fragment) as caught:
            check_outputs({"--save": path}, {})
        assert not caught.value.retry
        if "300" not in fragment and len(path.name) < 300:
            assert "--save" in str(caught.value) or "not a path" in str(caught.value)


def test_two_outputs_are_two_files_and_none_is_an_input(tmp_path):
    (tmp_path / "table.csv").touch()
    (tmp_path / "other.csv").hardlink_to(tmp_path / "table.csv")
    (tmp_path / "link.csv").symlink_to("table.csv")
    keys = tmp_path / "identity"
    keys.mkdir()
    table = {"table": tmp_path / "table.csv"}
    for outputs, fragment in (
        ({"model": tmp_path / "a", "record": tmp_path / "." / "a"}, "record: .* is the same file as model"),
        ({"model": tmp_path / "table.csv"}, "is the same file as table, which is read"),
        ({"model": tmp_path / "other.csv"}, "is the same file as table, which is read"),
        ({"model": tmp_path / "link.csv"}, "is the same file as table, which is read"),
        ({"model": tmp_path / "identity" / ".." / "table.csv"}, "is the same file as table, which is read"),
        ({"model": keys / "identity_key.pem"}, "folder of keys"),
    ):
        with pytest.raises(OutputError, match=fragment):
            check_outputs(outputs, table, keys=keys)
    check_outputs({"model": tmp_path / "a", "record": None, "ledger": tmp_path / "b"}, table, keys=keys)


def test_a_folder_of_transcripts_holds_no_other_file_of_the_run(tmp_path):
    folder = tmp_path / "frames"
    others = {"record": folder / "aurora.frames", "model": tmp_path / "model.json"}
    with pytest.raises(OutputError, match="would hold, the file of record"):
        check_folder("transcript", folder, ["aurora.frames"], others)
    with pytest.raises(OutputError, match="the file of model"):
        check_folder("transcript", tmp_path / "model.json", ["aurora.frames"], others)
    with pytest.raises(OutputError, match="folder of keys"):
        check_folder("transcript", tmp_path / "keys" / "t", ["x.frames"], {}, keys=tmp_path / "keys")
    check_folder("transcript", folder, ["borealis.frames"], others)
    assert not folder.exists()
    folder.mkdir()
    (folder / "borealis.frames").touch()
    with pytest.raises(OutputError, match="earlier run"):
        check_folder("transcript", folder, ["borealis.frames"], others)


def test_a_small_file_is_read_whole_up_to_its_limit_and_not_beyond(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_bytes(b"\xef\xbb\xbfa = 1\n")
    assert read_text(path) == "a = 1\n"
    assert read_whole(path, 9) == b"\xef\xbb\xbfa = 1\n"
    with pytest.raises(ValueError, match="more than 8 bytes"):
        read_whole(path, 8)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="the system has no file that never ends")
def test_a_file_that_never_ends_is_not_read_for_ever():
    with pytest.raises(ValueError, match="never ends"):
        read_whole(Path("/dev/zero"), 1000)


def test_a_pipe_is_read_whole(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = subprocess.Popen(["sh", "-c", f"printf 1234 > {pipe}; "])
    assert read_whole(pipe) == b"1234"
    assert writer.wait() == 0


WHOLE = re.compile(r"\.read_(?:bytes|text)\(")


def test_no_file_that_a_user_names_is_read_without_a_limit():
    """Files of the system, of Hansa itself, or that Hansa wrote a moment before are read whole by other means."""
    own = {
        "consortium/words.py",
        "files.py",
        "simulation/processes.py",
        "simulation/pooled_xgboost.py",
        "node/memory.py",
        "node/shared.py",
        "secure/prg.py",
        "demo/consoles.py",
        "demo/report.py",
        "console/app.py",
    }
    source = Path(hansa.files.__file__).parent
    reading = {str(path.relative_to(source)) for path in source.rglob("*.py") if WHOLE.search(path.read_text())}
    assert reading <= own


def test_folders_above_a_new_one_are_their_owners_too(tmp_path):
    make_folder(tmp_path / "a" / "b" / "c")
    assert [(tmp_path / each).stat().st_mode & 0o777 for each in ("a", "a/b", "a/b/c")] == [0o700] * 3


@pytest.mark.parametrize("variable", ["TMPDIR", "TMP"])
def test_a_folder_for_temporary_files_that_takes_none_is_told_and_no_other_one_is_taken(
    tmp_path, monkeypatch, variable
):
    """Python's own answer is another folder, without a word."""
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)
    assert temporary_folder().is_dir()
    missing = tmp_path / "missing"
    monkeypatch.setenv(variable, str(missing))
    with pytest.raises(
        OutputError, match=f"^{variable}: there is no folder {missing}; make it, or name another folder$"
    ):
        temporary_folder()
    monkeypatch.setenv(variable, os.devnull)
    with pytest.raises(OutputError, match=f"^{variable}: {os.devnull} is no folder; name a folder$"):
        temporary_folder()
    with pytest.raises(OutputError, match=variable), temporary():
        pytest.fail("the folder was made elsewhere")
    monkeypatch.setenv(variable, str(tmp_path))
    with temporary() as folder:
        assert folder.parent == tmp_path
        assert mode(folder) == 0o700
    assert only(tmp_path) == []


def test_where_no_folder_takes_temporary_files_the_variable_is_named(monkeypatch):
    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hansa.files.tempfile, "gettempdir", none)
    with pytest.raises(OutputError, match=r"no folder takes temporary files .* have TMPDIR name a folder in which"):
        temporary_folder()


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (
            errno.EACCES,
            r"cannot be written \(Permission denied\); let this account write in FOLDER, or name another folder",
        ),
        (
            errno.EROFS,
            r"cannot be written \(Read-only file system\); let this account write in FOLDER, or name another",
        ),
        (errno.ENOSPC, r"no space is left for it \(No space left on device\); free space, then start again"),
    ],
)
@pytest.mark.parametrize("kind", ["place", "temporary", "new folder"])
def test_a_folder_that_takes_no_file_is_named_with_its_key_and_the_cure(tmp_path, monkeypatch, number, told, kind):
    def refuse(path, *_, **__):
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(hansa.files.os, "open", refuse)
    checks = {
        "place": lambda: check_place("a.toml: engine.folder", tmp_path),
        "temporary": temporary_folder,
        "new folder": lambda: check_folder("a.toml: state", tmp_path / "new", (), {}),
    }
    what = {"place": "a.toml: engine.folder", "temporary": "TMPDIR", "new folder": "a.toml: state"}[kind]
    with pytest.raises(OutputError, match=f"^{what}: {tmp_path}.*{told.replace('FOLDER', str(tmp_path))}") as caught:
        checks[kind]()
    assert caught.value.retry == (number == errno.ENOSPC)


def test_a_full_disk_is_told_of_every_folder(small_disk, monkeypatch):
    (small_disk / "full").write_bytes(b"x" * (SMALL - PROBE_BYTES // 2))
    monkeypatch.setenv("TMPDIR", str(small_disk))
    for what, check in (
        ("TMPDIR", temporary_folder),
        ("engine.folder", lambda: check_place("engine.folder", small_disk)),
        ("state", lambda: check_folder("state", small_disk / "new", (), {})),
    ):
        with pytest.raises(OutputError, match=f"^{what}: .*no space is left for it.*free space, then start again"):
            check()
    assert only(small_disk) == ["full"]
