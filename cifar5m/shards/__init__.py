"""Check, repair, import and pack shards."""
