"""Spatial attention in image classification: labelled images, and training on them."""
