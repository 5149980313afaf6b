"""What a node's tokens activated: counted and sampled as the engine goes, cut into windows to be posted."""

from moeplace_agent.telemetry.encoding import compress, encode_window
from moeplace_agent.telemetry.forward_pass import ForwardPass
from moeplace_agent.telemetry.recorder import Recorder
from moeplace_agent.telemetry.windows import Activity, LayerShape, LayerWindow, Phase, Window

__all__ = [
    "Activity",
    "ForwardPass",
    "LayerShape",
    "LayerWindow",
    "Phase",
    "Recorder",
    "Window",
    "compress",
    "encode_window",
]
