"""How long `import ftlib` and its light rooms take in a fresh Python, and whether a heavy package comes with them."""

import subprocess
import sys
import time

CODE = (
    "import sys, ftlib, ftlib.records, ftlib.runs; print(*[m for m in ('torch', 'transformers') if m in sys.modules])"
)


def run(variant: str = "ours") -> dict:
    """Seconds of the import, the time that Python itself takes to start taken off; the least of five."""
    timed = lambda code: min(_seconds(code) for _ in range(5))
    heavy = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout.split()
    return {"seconds": timed(CODE) - timed("pass"), "heavy": heavy}


def _seconds(code: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    return time.perf_counter() - started
