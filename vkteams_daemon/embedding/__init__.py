"""Embedding models: texts become vectors on this machine, and no text leaves it."""

import os

# onnxruntime reports its use to its makers and keeps a file for that in /tmp, unless this is set before it is loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
