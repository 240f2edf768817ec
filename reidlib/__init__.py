"""Models, losses, data and evaluation of the person re-identification study in notebooks/."""

__version__ = "0.1.0"
