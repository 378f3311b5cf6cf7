"""A page in the browser that shows a run: the NeRF from each visitor's camera, and the mesh.

pose    converts a visitor's camera from viser's convention to ours
meshes  the displayed mesh: the run's model.glb, or one extracted at a threshold
stage   schedules what to render next, for which visitor, at which size; independent of viser
follow  loads new checkpoints of a run
page    the thin layer over viser (an optional package, imported nowhere else)
serve   a page for the folder of a run, and a page for a run during training
"""
