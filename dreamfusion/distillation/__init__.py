"""Distilling a diffusion prior into whatever makes images."""
