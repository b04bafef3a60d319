"""A running server out of settings: built in `build`, lived in `run`, entered through `doors`."""

from predictor.server.build import build_server
from predictor.server.place import PodPlace
from predictor.server.run import AsrServer

__all__ = ["AsrServer", "PodPlace", "build_server"]
