"""A radiance field on a hash grid, volume-rendered: the scene `nerf`."""
