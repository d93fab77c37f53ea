"""Measure loaders beside their peers."""
