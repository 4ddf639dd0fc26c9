"""Adds a row to a table of SQLite and counts the rows."""

import sqlite3
import sys

lr = float(sys.argv[1].removeprefix("--lr="))
database = sqlite3.connect("counts_rows.db", timeout=30)
with database:
    database.execute("create table if not exists results (lr real)")
    database.execute("insert into results values (?)", (lr,))
rows = database.execute("select count(*) from results").fetchone()[0]
database.close()
print(f"acc={lr / rows:.6f}")
