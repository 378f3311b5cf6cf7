"""Runs on disk: planning, training, checkpoints and export."""
