"""Publish a dataset to the Hugging Face Hub."""
