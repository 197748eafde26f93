"""From a Jupyter notebook to a decision that can be defended, then to a service that can be trusted."""

__version__ = "0.1.0"
