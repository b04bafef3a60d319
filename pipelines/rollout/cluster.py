"""One InferenceService and its rollout's state, through the Kubernetes API.

Both are read and replaced whole with their resourceVersion, so that a change by someone else in
between is a conflict and never lost.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client, config

from pipelines.lib.errors import RolloutError
from pipelines.rollout.state import State

GROUP, VERSION, PLURAL = "serving.kserve.io", "v1beta1", "inferenceservices"
STATE_KEY = "state.json"
NOT_FOUND, CONFLICT = 404, 409
REQUEST_TIMEOUT_S = 30

InferenceService = dict[str, Any]


class ConflictError(RolloutError):
    """Someone else changed the object since it was read."""


class Cluster:
    """The API calls that a rollout needs, for one InferenceService."""

    def __init__(self, api: client.ApiClient, namespace: str, name: str) -> None:
        self._objects = client.CustomObjectsApi(api)
        self._core = client.CoreV1Api(api)
        self.namespace = namespace
        self.name = name
        self._state_version: str | None = None  # resourceVersion of the ConfigMap as last seen

    @property
    def state_name(self) -> str:
        """Name of the ConfigMap with the state."""
        return f"{self.name}-rollout"

    def read(self) -> InferenceService:
        """The InferenceService as it is now. RolloutError when there is none."""
        try:
            found: InferenceService = self._objects.get_namespaced_custom_object(
                GROUP,
                VERSION,
                self.namespace,
                PLURAL,
                self.name,
                _request_timeout=REQUEST_TIMEOUT_S,
            )
        except (client.ApiException, urllib3.exceptions.HTTPError) as error:
            raise self._error("InferenceService", self.name, error) from error
        return found

    def replace(self, service: InferenceService) -> InferenceService:
        """Write it back; ConflictError if it changed since it was read."""
        try:
            written: InferenceService = self._objects.replace_namespaced_custom_object(
                GROUP,
                VERSION,
                self.namespace,
                PLURAL,
                self.name,
                service,
                _request_timeout=REQUEST_TIMEOUT_S,
            )
        except (client.ApiException, urllib3.exceptions.HTTPError) as error:
            raise self._error("InferenceService", self.name, error) from error
        return written

    def read_state(self) -> State | None:
        """The rollout's state; None when there never was a rollout."""
        try:
            found = self._core.read_namespaced_config_map(
                self.state_name, self.namespace, _request_timeout=REQUEST_TIMEOUT_S
            )
        except client.ApiException as error:
            if error.status == NOT_FOUND:
                self._state_version = None
                return None
            raise self._error("ConfigMap", self.state_name, error) from error
        except urllib3.exceptions.HTTPError as error:
            raise self._error("ConfigMap", self.state_name, error) from error
        self._state_version = found.metadata.resource_version
        return State.from_json((found.data or {}).get(STATE_KEY, ""))

    def write_state(self, state: State, service: InferenceService) -> None:
        """Write the state; ConflictError if it changed since `read_state` or the last write."""
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": self.state_name,
                "namespace": self.namespace,
                "resourceVersion": self._state_version,
                "labels": {"serving.kserve.io/inferenceservice": self.name},
                "ownerReferences": [_owner_reference(service)],
            },
            "data": {STATE_KEY: state.to_json()},
        }
        try:
            if self._state_version is None:
                del body["metadata"]["resourceVersion"]  # type: ignore[attr-defined]
                written = self._core.create_namespaced_config_map(
                    self.namespace, body, _request_timeout=REQUEST_TIMEOUT_S
                )
            else:
                written = self._core.replace_namespaced_config_map(
                    self.state_name, self.namespace, body, _request_timeout=REQUEST_TIMEOUT_S
                )
        except (client.ApiException, urllib3.exceptions.HTTPError) as error:
            raise self._error("ConfigMap", self.state_name, error) from error
        self._state_version = written.metadata.resource_version

    def _error(self, kind: str, name: str, error: Exception) -> RolloutError:
        what = f"{kind} {self.namespace}/{name}"
        if not isinstance(error, client.ApiException):
            return RolloutError(f"{what}: the Kubernetes API does not answer: {error}")
        if error.status == CONFLICT:
            return ConflictError(f"{what}: was changed by someone else at the same time")
        if error.status == NOT_FOUND:
            return RolloutError(f"{what}: does not exist")
        return RolloutError(f"{what}: HTTP {error.status}: {str(error.body)[:500]}")


def connect(namespace: str, name: str, *, kubeconfig: Path | None, context: str | None) -> Cluster:
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
    return Cluster(api, namespace, name)


def _owner_reference(service: InferenceService) -> dict[str, Any]:
    return {
        "apiVersion": service["apiVersion"],
        "kind": service["kind"],
        "name": service["metadata"]["name"],
        "uid": service["metadata"]["uid"],
    }
