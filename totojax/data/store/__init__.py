"""Data sets as we keep them: shards of records with a manifest."""
