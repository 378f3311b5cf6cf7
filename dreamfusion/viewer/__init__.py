"""An interactive web page that shows a run: the NeRF from each visitor's camera, and the mesh.

pose    converts a visitor's camera from viser's convention to this package's
meshes  the displayed mesh: the run's model.glb, or one extracted at a threshold
stage   schedules what to render next, for which visitor, at which size; independent of viser
follow  loads new checkpoints of a run
page    thin wrapper of viser (an optional package, imported nowhere else)
serve   serves a page for the folder of a run, or for a run during training
"""
