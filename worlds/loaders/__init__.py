"""Samplers, augmentation and the Real and Ideal World loaders."""
