"""reidlib: the models, losses, data and evaluation behind the person re-identification study in notebooks/."""

__version__ = "0.1.0"
