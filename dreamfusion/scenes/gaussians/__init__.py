"""Gaussian splats (Kerbl et al. 2023, "3D Gaussian splatting").

settings    the section `scene` of the configuration
scene       the parameters, their schedules and optimiser, and the images
relocation  moves splats that became transparent onto others (Kheradmand et al. 2024)
surface     a mesh from splats
start       splats from the mesh of another scene
files       .ply, .splat and .spz files
rasterizer  draws splats, by gsplat or by our kernels
kernels     numba kernels
splats      the parameters
"""
