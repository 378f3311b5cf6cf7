"""Distils a diffusion prior into any differentiable generator of images."""
