"""Three dimensions: Gaussians and radiance fields, cameras, renderers, files, and the loop that optimises a scene."""
