"""What people take away from a run: one HTML page (page, figures), tables and exports (tables)."""
