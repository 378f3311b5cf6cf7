"""Cameras, light and pictures: knows no NeRF and no diffusion."""
