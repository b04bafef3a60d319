"""One InferenceService and its rollout's state, through the Kubernetes API.

Both are read and replaced whole with their resourceVersion, so that a change by someone else in
between is a conflict and never lost.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kubernetes import client, config

from pipelines.lib.errors import RolloutError
from pipelines.rollout.kube import MissingError, Patience
from pipelines.rollout.lease import Lease
from pipelines.rollout.state import State

GROUP, VERSION, PLURAL = "serving.kserve.io", "v1beta1", "inferenceservices"
STATE_KEY = "state.json"

InferenceService = dict[str, Any]


class Cluster:
    """The API calls that a rollout needs, for one InferenceService."""

    def __init__(
        self, api: client.ApiClient, namespace: str, name: str, patience: Patience | None = None
    ) -> None:
        self._api = api
        self._objects = client.CustomObjectsApi(api)
        self._core = client.CoreV1Api(api)
        self._patience = patience or Patience()
        self.namespace = namespace
        self.name = name
        self._state_version: str | None = None  # resourceVersion of the ConfigMap as last seen

    @property
    def state_name(self) -> str:
        """Name of the ConfigMap with the state, and of the lease."""
        return f"{self.name}-rollout"

    def lease(self, holder: str, duration_s: float) -> Lease:
        """The right to drive this rollout, not held yet."""
        return Lease(self._api, self.namespace, self.state_name, holder, duration_s, self._patience)

    def read(self) -> InferenceService:
        """The InferenceService as it is now. RolloutError when there is none."""
        found: InferenceService = self._patience.call(
            self._called("InferenceService", self.name),
            self._objects.get_namespaced_custom_object,
            *(GROUP, VERSION, self.namespace, PLURAL, self.name),
        )
        return found

    def replace(self, service: InferenceService) -> InferenceService:
        """Write it back; ConflictError if it changed since it was read."""
        written: InferenceService = self._patience.call(
            self._called("InferenceService", self.name),
            self._objects.replace_namespaced_custom_object,
            *(GROUP, VERSION, self.namespace, PLURAL, self.name, service),
        )
        return written

    def read_state(self) -> State | None:
        """The rollout's state; None when there never was a rollout."""
        try:
            found = self._patience.call(
                self._called("ConfigMap", self.state_name),
                self._core.read_namespaced_config_map,
                *(self.state_name, self.namespace),
            )
        except MissingError:
            self._state_version = None
            return None
        self._state_version = found.metadata.resource_version
        return State.from_json((found.data or {}).get(STATE_KEY, ""))

    def write_state(self, state: State, service: InferenceService) -> None:
        """Write the state; ConflictError if it changed since `read_state` or the last write."""
        metadata: dict[str, Any] = {
            "name": self.state_name,
            "namespace": self.namespace,
            "labels": {"serving.kserve.io/inferenceservice": self.name},
            "ownerReferences": [_owner_reference(service)],
        }
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata,
            "data": {STATE_KEY: state.to_json()},
        }
        what = self._called("ConfigMap", self.state_name)
        if self._state_version is None:
            create = self._core.create_namespaced_config_map
            written = self._patience.call(what, create, self.namespace, body)
        else:
            metadata["resourceVersion"] = self._state_version
            replace = self._core.replace_namespaced_config_map
            written = self._patience.call(what, replace, self.state_name, self.namespace, body)
        self._state_version = written.metadata.resource_version

    def _called(self, kind: str, name: str) -> str:
        return f"{kind} {self.namespace}/{name}"


def connect(
    namespace: str,
    name: str,
    *,
    kubeconfig: Path | None,
    context: str | None,
    patience: Patience | None = None,
) -> Cluster:
    """A cluster by kubeconfig, or from inside a pod. RolloutError when neither can be had."""
    try:
        if kubeconfig is not None or context is not None:
            api = config.new_client_from_config(
                config_file=str(kubeconfig) if kubeconfig else None, context=context
            )
        else:
            config.load_config()
            api = client.ApiClient()
    except config.ConfigException as error:
        raise RolloutError(f"no Kubernetes configuration: {error}") from error
    return Cluster(api, namespace, name, patience)


def _owner_reference(service: InferenceService) -> dict[str, Any]:
    return {
        "apiVersion": service["apiVersion"],
        "kind": service["kind"],
        "name": service["metadata"]["name"],
        "uid": service["metadata"]["uid"],
    }
