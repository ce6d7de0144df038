"""What this machine has left: disk, memory; and how much memory this process has held.

Left out on purpose: accelerators. They need torch, and belong to the rooms that import it.
"""

import contextlib
import ctypes
import shutil
import sys
from pathlib import Path


def check_room(path: Path, *, need_disk_mb: float, need_ram_mb: float, profile: str) -> None:
    """Check free disk and memory before anything is written.

    Args:
        path: the folder that will be written to, there or not.
        profile: named in the error.

    Raises:
        RuntimeError: too little of either.
    """
    place = next(folder for folder in (path, *path.parents) if folder.exists())
    disk_mb = shutil.disk_usage(place).free / 2**20
    if disk_mb < need_disk_mb:
        raise RuntimeError(
            f"profile {profile}: {need_disk_mb:.0f} MB of free disk needed at {place}, got {disk_mb:.0f} MB; "
            "free some space, or set FTLIB_RUNS to a folder on another disk"
        )
    ram_mb = free_ram_mb()
    if ram_mb < need_ram_mb:
        raise RuntimeError(
            f"profile {profile}: {need_ram_mb:.0f} MB of free memory needed, got {ram_mb:.0f} MB; "
            "close other programs and kernels, or take a smaller profile"
        )


def free_ram_mb() -> float:
    """Free memory of the machine, or what is left of the container's limit where that is less."""
    import psutil

    free = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # no cgroup v2, or "max": no limit
        limit = int((group / "memory.max").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used = int((group / "memory.current").read_text()) - int(stat["inactive_file"])  # cache gives way
        free = min(free, limit - used)
    return free / 2**20


def peak_rss_mb() -> float:
    """The most memory that this process has held so far, in MB (2**20 bytes); child processes are not counted."""
    # Linux: getrusage would report the peak of the parent where that was larger, because it outlives exec.
    with contextlib.suppress(OSError, StopIteration):
        status = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in status if line.startswith("VmHWM:")).split()[1]) / 2**10
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # macOS counts bytes, others kilobytes


def glibc_function(name: str):
    """A function of glibc by name; None on other systems and with another C library (musl)."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return getattr(ctypes.CDLL("libc.so.6"), name)
    except (OSError, AttributeError):
        return None


def trim_heap() -> bool:
    """Hand the heap's free pages back to the system (Linux, glibc); True if that was possible.

    `train.steady_heap` keeps freed memory for the next step; between two phases of a notebook it is only in the way.
    """
    trim = glibc_function("malloc_trim")
    return bool(trim and trim(0))
