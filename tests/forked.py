"""Processes of `python -m hansa` for tests, forked from one that has imported everything.

They are processes like others, with memory, files, signals and an end of their own. Only what each of them would do for its first
two or three seconds, to import modules and to load kernels, was done once. Where that cannot be (`PR_SET_CHILD_SUBREAPER` is Linux's),
the interpreter is started as always.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import json
import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PR_SET_CHILD_SUBREAPER = 36
COMMAND = [sys.executable, "-m", "hansa"]
NOTHING_SPECIAL = (True, None, None, None, -1, False, -1)
"""restore_signals, gid, gids, uid, umask, start_new_session, process_group."""

MOST_BYTES = 2**17


def adopts(whether: bool) -> bool:
    """Whether orphans among this process's descendants become its children from now on; False where a system has no such thing."""
    return (
        sys.platform.startswith("linux") and ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(whether), 0, 0, 0) == 0
    )


class Origin:
    """The process that others are forked from."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = PLAIN(
                [sys.executable, __file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def fork(self, arguments: list[str], folder: str, environment: dict[str, str], files: tuple[int, int, int]) -> int:
        """A new process, a child of this one: `hansa ARGUMENTS` with these three files. Returns its number."""
        asked = json.dumps({"arguments": arguments, "folder": folder, "environment": environment}).encode()
        assert len(asked) < MOST_BYTES
        # Only as long as the fork needs a new parent: other orphans, such as a browser's, must find none here.
        assert adopts(True)
        try:
            socket.send_fds(self._ours, [asked], list(files))
            return int(self._ours.recv(32))
        finally:
            adopts(False)

    def close(self) -> None:
        self._ours.close()
        self._process.wait()


PLAIN = subprocess.Popen
_origin: Origin | None = None


class Popen(PLAIN):  # type: ignore[misc, type-arg]  # the class is generic, its twin at run time need not be
    """subprocess.Popen, but for processes of `python -m hansa` that ask for nothing special."""

    def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, close_fds: Any, pass_fds: Any, cwd: Any, env: Any,
                       startupinfo: Any, creationflags: Any, shell: Any, p2cread: int, p2cwrite: int, c2pread: int, c2pwrite: int,
                       errread: int, errwrite: int, *others: Any) -> None:  # fmt: skip
        told = [str(each) for each in args] if isinstance(args, list | tuple) else []
        plain = others == NOTHING_SPECIAL and close_fds and not (executable or preexec_fn or pass_fds or shell)
        if told[:3] != COMMAND or not plain:
            super()._execute_child(args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
                                   p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *others)  # fmt: skip
            return
        global _origin
        _origin = _origin or Origin()
        files = tuple(own if given == -1 else given for given, own in ((p2cread, 0), (c2pwrite, 1), (errwrite, 2)))
        environment = {
            os.fsdecode(key): os.fsdecode(value) for key, value in (os.environ if env is None else env).items()
        }
        try:
            self.pid = _origin.fork(told[3:], str(Path(cwd or ".").resolve()), environment, files)
            self._child_created = True
        finally:
            self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)


@contextlib.contextmanager
def forking() -> Iterator[None]:
    """Whoever starts `python -m hansa` in this process gets a fork, until this ends."""
    global _origin
    if not adopts(False):
        yield
        return
    subprocess.Popen = Popen  # type: ignore[misc]
    try:
        yield
    finally:
        subprocess.Popen = PLAIN  # type: ignore[misc]
        if _origin is not None:
            _origin.close()
            _origin = None


def serve(channel: socket.socket) -> dict[str, Any] | None:
    """In the process that others are forked from. Returns in each of those what it was asked for, and None at the end."""
    while True:
        asked, files, _, _ = socket.recv_fds(channel, MOST_BYTES, 3)
        if not asked:
            return None
        reader, writer = os.pipe()
        between = os.fork()
        if between == 0:
            # Its own parent ends, so that it becomes a child of whoever asked (`PR_SET_CHILD_SUBREAPER`).
            child = os.fork()
            if child != 0:
                os.write(writer, str(child).encode())
                os._exit(0)
            for own in (reader, writer, channel.detach()):
                os.close(own)
            for number, file in enumerate(files):
                os.dup2(file, number)
                os.close(file)
            found: dict[str, Any] = json.loads(asked)
            return found
        os.close(writer)
        for file in files:
            os.close(file)
        os.waitpid(between, 0)
        channel.send(os.read(reader, 32))
        os.close(reader)


def main() -> None:
    from hansa.node.warm_up import warm_up, warm_up_shares
    from hansa.trees.parameters import Parameters

    for module in ("hansa.cli.main", "hansa.node.run", "hansa.simulation.run", "numba.np.arraymath"):
        __import__(module)
    warm_up(Parameters())
    warm_up_shares(Parameters())
    with contextlib.suppress(
        ImportError
    ):  # numba's, after it told of an error: it would end what forks write to terminals
        from colorama.initialise import reset_all

        atexit.unregister(reset_all)
    asked = serve(socket.socket(fileno=int(sys.argv[1])))
    if asked is not None:
        os.chdir(asked["folder"])
        os.environ.clear()
        os.environ.update(asked["environment"])
        sys.argv = ["hansa", *asked["arguments"]]
        runpy.run_module("hansa", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
