"""The C library's memory, on a CPU: glibc gives freed tensors back to the kernel, which clears every page anew."""

from __future__ import annotations

import ctypes
import os
import platform

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Parameters of mallopt(3)."""
TOP_PAD = 64 * 2**20


def keep_freed_memory() -> None:
    """Let the process keep what is freed for what is allocated next, up to give_back.

    Nothing is changed where the C library is not glibc, or where the environment sets it up (MALLOC_, GLIBC_TUNABLES).
    """
    is_set_up = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if (libc := _glibc()) is not None and not is_set_up:
        libc.mallopt(M_TRIM_THRESHOLD, -1)
        libc.mallopt(M_TOP_PAD, TOP_PAD)
        libc.mallopt(M_MMAP_MAX, 0)


def give_back() -> None:
    """Return what the process keeps and does not use."""
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
