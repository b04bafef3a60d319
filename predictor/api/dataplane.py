"""KServe's data plane with its traps mended, in this one place.

- readiness and liveness say the truth about the model and its engine;
- a request never loads a model inside the event loop;
- models cannot be loaded or unloaded by callers;
- metadata is complete.
"""

from __future__ import annotations

from typing import Any, cast

from kserve import ModelRepository
from kserve.errors import ModelNotFound
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.model_repository_extension import ModelRepositoryExtension

from predictor import __version__
from predictor.api import v2
from predictor.api.errors import Closed
from predictor.errors import NotFound, NotReady
from predictor.service.calls import Call
from predictor.service.model import AsrModel
from predictor.text.cue_lines import USUAL, SubtitleOptions

SERVER_NAME = "qwen3-asr-kserve"
PLATFORM = "qwen3_asr"


class AsrDataPlane(DataPlane):  # type: ignore[misc]  # KServe is untyped
    """Serves one AsrModel."""

    def __init__(
        self,
        model_registry: ModelRepository,
        max_items: int,
        cues: SubtitleOptions = USUAL,
    ) -> None:
        """`cues`: of subtitles for which no others are asked."""
        super().__init__(model_registry=model_registry)
        self.max_items = max_items
        self.cues = cues

    @property
    def model(self) -> AsrModel:
        """The one model of this server."""
        return cast(AsrModel, self.model_registry.get_model(self.served_names[0]))

    def model_digest(self) -> str | None:
        """Of the weights; None while they are loading."""
        identity = self.model.identity
        return None if identity is None else identity.digest

    @property
    def served_names(self) -> tuple[str, ...]:
        """The model's name first, then the names it is answered to as well."""
        return tuple(self.model_registry.get_models())

    def named(self, model_name: str) -> AsrModel:
        """The model of this name. Raises NotFound."""
        try:
            return cast(AsrModel, self.get_model_from_registry(model_name))
        except ModelNotFound as error:
            raise NotFound(
                f"model {model_name[:60]!r} is not served here, {self.model.name!r} is"
            ) from error

    async def get_model(self, name: str) -> AsrModel:
        """The model, when it can take a request. Raises NotFound, NotReady; never loads."""
        model = self.named(name)
        if not model.is_serving():
            raise NotReady(f"model {name} is not ready, try again soon")
        return model

    async def call(self, model_name: str, call: Call, headers: dict[str, str] | None = None) -> Any:
        """Run a call through KServe's hooks; returns what it rendered."""
        answer, _ = await self.infer(model_name, call, headers)
        return answer

    async def live(self) -> dict[str, str]:
        """`{"status": "alive"}` while the engine's loop turns."""
        return {"status": "alive" if self.model.alive() else "dead"}

    async def ready(self) -> bool:
        """Whether requests should be sent here."""
        return self.model.is_ready()

    async def model_ready(
        self, model_name: str, disable_predictor_health_check: bool = False
    ) -> bool:
        """Whether requests for this model should be sent here. Raises NotFound."""
        return self.named(model_name).is_ready()

    def metadata(self) -> dict[str, Any]:
        """Name, version and extensions of this server."""
        return {
            "name": SERVER_NAME,
            "version": __version__,
            "extensions": ["binary_tensor_data"],
        }

    async def model_metadata(self, model_name: str) -> dict[str, Any]:
        """Inputs and outputs of the model, and which weights it is. Raises NotFound."""
        identity = self.named(model_name).identity
        metadata: dict[str, Any] = {
            "name": model_name,
            "versions": [],
            "platform": PLATFORM,
            "inputs": [dict(tensor) for tensor in v2.INPUTS],
            "outputs": [dict(tensor) for tensor in v2.OUTPUTS],
        }
        if identity is not None:
            metadata["properties"] = {
                "model_identity": identity.digest,
                "model_source": identity.source,
                "model_revision": identity.revision or "",
            }
        return metadata


class ClosedRepository(ModelRepositoryExtension):  # type: ignore[misc]
    """KServe lets anyone unload the model; here that is the orchestrator's to decide."""

    async def load(self, model_name: str) -> None:
        """Always raises Closed."""
        raise Closed("models are not loaded or unloaded over the network")

    async def unload(self, model_name: str) -> None:
        """Always raises Closed."""
        raise Closed("models are not loaded or unloaded over the network")
