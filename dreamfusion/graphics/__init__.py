"""Cameras, light and images; independent of NeRF and diffusion."""
