"""A page in the browser that shows a run: the NeRF from where the visitor stands, and the mesh.

pose    a visitor's camera (viser's convention) ↔ ours
meshes  what stands in the scene: the run's model.glb, or one extracted at a threshold
stage   what is to be drawn next, for whom and how sharply; knows no viser
follow  what a run's folder has to tell while it grows
page    the thin layer over viser (an optional package, imported nowhere else)
serve   a page for a folder, and a page for a run while it trains
"""
