"""Datasets in memory: images, labels, splits, stores and packs."""
