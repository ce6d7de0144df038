"""Run one case and print its result as one line of JSON; called by `benchmarks.cases.in_process`."""

import importlib
import json
import sys

from ftlib.machine import peak_rss_mb

if __name__ == "__main__":
    name, options = sys.argv[1], json.loads(sys.argv[2])
    result = importlib.import_module(f"benchmarks.cases.{name}").run(**options)
    print(json.dumps({"peak_rss_mb": round(peak_rss_mb())} | result))
