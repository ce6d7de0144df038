"""What this machine can do at best: a large matrix product in the profile's dtype, and copying memory."""

import time

from ftlib import models
from ftlib.profiles import resolve


def run(variant: str = "ours") -> dict:
    """Median of nine: GFLOP/s of a product of square matrices, GB/s read and written by a copy, both on the device.

    2,048 rows and 256 MB; on a GPU 8,192 rows and 4 GB, so that starting the work does not count.
    """
    import torch

    profile = resolve("auto")
    n, mb = (2048, 256) if profile.use_cpu else (8192, 4096)
    a = torch.randn(n, n, device=profile.device).to(models.torch_dtype(profile.dtype))
    source = torch.zeros(mb * 2**18, device=profile.device)
    target = torch.zeros_like(source)
    product = _median_seconds(lambda: a @ a, profile.device)
    copy = _median_seconds(lambda: target.copy_(source), profile.device)
    return {
        "seconds": product + copy,
        "dtype": profile.dtype,
        "gflop_a_second": 2 * n**3 / product / 1e9,
        "gb_a_second": 2 * source.numel() * 4 / copy / 1e9,
    }


def _median_seconds(work, device: str, *, repeats: int = 9) -> float:
    import torch

    times = []
    for _ in range(repeats + 2):  # the first two warm up
        started = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return sorted(times[2:])[repeats // 2]
