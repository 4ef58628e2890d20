"""The trainer of `solids`: renders, then readers and text tower, then VAE, then UNet, then one folder."""
