"""The run folder: where a search lives on disk, and the journal that is its database."""
