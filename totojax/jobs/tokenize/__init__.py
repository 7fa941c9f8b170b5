"""Any source becomes shards of tokens."""
