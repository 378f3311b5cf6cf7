"""Evaluation of runs: a judge scores their images, their meshes are checked; gives a table."""
