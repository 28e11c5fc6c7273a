"""What FashionBERT is: data, network, training, evaluation, export, and the engine."""

import os

# ONNX Runtime tells its maker of every use unless this stands before its import (1.29 and later).
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
