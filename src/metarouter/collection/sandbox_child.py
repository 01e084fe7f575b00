"""Runs inside the sandbox: give up rights, then run one program.

Started by :mod:`metarouter.collection.sandbox` as a script of its own, with the
standard library alone. Arguments: program, CPU seconds, bytes of memory,
processes (0: no limit), and the folders that may be read. The first line of
standard input is the word to print when the program has come to its end.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import runpy
import struct
import sys

__all__ = ["restrict_files", "restrict_sockets", "set_limits"]

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446  # system calls, the same on all processors
_ACCESS_FILE = 0b111 | 1 << 14  # execute, write, read, truncate
_ACCESS_READ = 0b1101  # execute, read a file, list a folder
_FILE_BYTES = 16 * 2**20
# of the kernel's audit and seccomp headers: architecture, socket, socketpair
_PROCESSORS = {"x86_64": (0xC000003E, 41, 53), "aarch64": (0xC00000B7, 198, 199)}
_IO_URING_SETUP = 425  # would make sockets that no filter sees
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | 13  # 13: permission denied


def main() -> None:
    """Restrict this process, run the program, and say the word."""
    word = sys.stdin.readline().strip().encode()
    program, cpu, memory, processes, *readable = sys.argv[1:]
    sys.argv[:] = [program]
    folder = os.path.dirname(program)  # noqa: PTH120 - pathlib would be one more import
    restrict_files(folder, readable)
    restrict_sockets()
    set_limits(int(cpu), int(memory), int(processes))
    os.write(1, b"\nstarted\n")
    runpy.run_path(program, run_name="__main__")
    sys.stdout.flush()
    os.write(1, b"\n" + word + b"\n")


def set_limits(cpu_seconds: int, memory: int, processes: int) -> None:
    """Limits that the program cannot raise again."""
    limits = {
        resource.RLIMIT_CPU: cpu_seconds,
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_FSIZE: _FILE_BYTES,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    if processes:
        limits[resource.RLIMIT_NPROC] = processes
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))


def restrict_files(folder: str, readable: list[str]) -> bool:
    """Landlock: write below `folder` alone, read there and below `readable` alone.

    Returns whether the kernel can do it. TCP connections are refused too, where
    the kernel can do that (ABI 4).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    files = (1 << {1: 13, 2: 14}.get(version, 15)) - 1
    network = 0b11 if version >= 4 else 0
    attributes = struct.pack("=QQ", files, network)[: 16 if version >= 4 else 8]
    ruleset = libc.syscall(_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0)
    paths = {folder: files, "/dev/null": _ACCESS_FILE & files}
    paths |= dict.fromkeys(readable, _ACCESS_READ)
    for path, access in paths.items():
        if os.path.exists(path):  # noqa: PTH110 - pathlib would be one more import
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
            mask = files if os.path.isdir(path) else _ACCESS_FILE  # noqa: PTH112 - likewise
            rule = struct.pack("=Qi", access & mask, handle)
            _check(libc.syscall(_ADD_RULE, ruleset, 1, rule, 0))
            os.close(handle)
    _check(libc.prctl(38, 1, 0, 0, 0))  # no new privileges, which Landlock asks for
    _check(libc.syscall(_RESTRICT, ruleset, 0))
    os.close(ruleset)
    return True


def restrict_sockets() -> bool:
    """Seccomp: make no socket but of the internet and connected pairs.

    A UNIX socket of another process is a file to which Landlock and a network
    of its own do not forbid to connect. A pair of datagram sockets could send
    to any, so that only streams are paired. Returns whether the kernel can do it.
    """
    if platform.machine() not in _PROCESSORS:
        return False
    program = _socket_filter(*_PROCESSORS[platform.machine()])
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HP", len(program) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    _check(libc.prctl(38, 1, 0, 0, 0))  # no new privileges, which seccomp asks for
    place = ctypes.create_string_buffer(header, len(header))
    return bool(libc.prctl(22, 2, ctypes.addressof(place), 0, 0) == 0)


def _socket_filter(architecture: int, socket: int, pair: int) -> bytes:
    """Classic BPF on the number and arguments of a system call; jumps are relative."""
    load, equal, least, mask, end = 0x20, 0x15, 0x35, 0x54, 0x06
    steps = [
        (load, 0, 0, 4),  # architecture: calls of another (32 bits) have other numbers
        (equal, 0, 13, architecture),
        (load, 0, 0, 0),  # number
        (least, 11, 0, 0x40000000),  # x32, likewise
        (equal, 10, 0, _IO_URING_SETUP),
        (equal, 0, 3, socket),
        (load, 0, 0, 16),  # family
        (equal, 6, 0, 2),  # IPv4
        (equal, 5, 6, 10),  # IPv6
        (equal, 0, 4, pair),
        (load, 0, 0, 24),  # type, with flags above its four bits
        (mask, 0, 0, 0xF),
        (equal, 1, 0, 1),  # stream
        (equal, 0, 1, 5),  # sequence of packets
        (end, 0, 0, _ALLOW),
        (end, 0, 0, _REFUSE),
    ]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _check(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), "the sandbox could not be set up")


if __name__ == "__main__":
    main()
