"""Find, download and convert network weights."""
