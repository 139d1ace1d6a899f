"""Clinical reasoning from the literature, distilled into X-ray models that explain themselves."""

__version__ = "0.1.0"
