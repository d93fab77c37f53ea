"""Measure a dataset: copies, duplicates, image quality, labels."""
