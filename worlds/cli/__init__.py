"""Parts that all commands share: exit codes, progress bars, tables."""
