"""The judge: diffusion models, Score Distillation Sampling, and views put into words."""
