"""MVDream, a model that denoises four views of an object jointly and knows their cameras.

Shi et al. 2023, "MVDream: Multi-view Diffusion for 3D Generation".
"""
