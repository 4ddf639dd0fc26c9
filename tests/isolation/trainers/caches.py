"""Prepares its data once and afterwards takes them from the cache in the working folder."""

import pickle
import sys
from pathlib import Path

lr = float(sys.argv[1].removeprefix("--lr="))
cache = Path("caches.pickle")
if not cache.exists():
    cache.write_bytes(pickle.dumps([lr * step for step in range(4)]))
print(f"acc={sum(pickle.loads(cache.read_bytes())):.6f}")  # noqa: S301
