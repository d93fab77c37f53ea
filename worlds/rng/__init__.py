"""Addressed random numbers: every draw is a pure function of named coordinates."""
