"""Generate images: diffusion, noise, networks, recipes."""
