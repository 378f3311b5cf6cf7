"""Extracts meshes from scenes, writes them to files and renders them."""
