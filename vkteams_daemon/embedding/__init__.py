"""Models on this machine: texts become vectors, and no word of it leaves it."""

import os

# onnxruntime reports its use to its makers, and keeps a file for that in /tmp, unless told not to before it is loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
