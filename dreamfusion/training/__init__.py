"""The optimisation of a scene by score distillation."""
