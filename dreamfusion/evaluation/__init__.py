"""Evaluates runs: a judge scores their images, meshes are checked, results form a table."""
