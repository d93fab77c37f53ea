"""One module per group of the paper's figures; each registers its experiments."""
