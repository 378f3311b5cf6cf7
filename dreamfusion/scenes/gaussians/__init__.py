"""Gaussian splats (Kerbl et al. 2023, "3D Gaussian splatting"): the scene `gaussians`."""
