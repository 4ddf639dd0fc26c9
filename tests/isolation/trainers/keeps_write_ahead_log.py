"""Goes on from a database with a write-ahead log, which maps shared memory beside it."""

import sqlite3
import sys

lr = float(sys.argv[1].removeprefix("--lr="))
database = sqlite3.connect("keeps_write_ahead_log.db", timeout=30, isolation_level=None)
database.execute("pragma journal_mode=wal")
database.execute("create table if not exists results (lr real)")
database.execute("insert into results values (?)", (lr,))
first = database.execute("select lr from results order by rowid limit 1").fetchone()[0]
print(f"acc={first:.6f}", flush=True)
