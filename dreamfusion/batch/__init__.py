"""Batches of runs: jobs, whose state is in their folders, and engines that run them. No torch."""
