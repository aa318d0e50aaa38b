"""mtlcli: multi-task fine-tuning of text encoders from one command, ``mtl``."""

__version__ = "0.1.0"
