"""Distribute generation over processes, ranks or a Ray cluster."""
