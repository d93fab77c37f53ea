"""The reference trainer: config, steps, evaluation, run directories."""
