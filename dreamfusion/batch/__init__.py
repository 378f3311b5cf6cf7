"""Batches of runs: jobs, whose state is stored in folders, and engines that run them. No torch."""
