"""Run experiments: local worker processes, or a Ray cluster."""
