"""Datasets as bytes on disk: plans, shards, records, npz and tar files."""
