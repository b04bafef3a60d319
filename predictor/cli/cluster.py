"""Whether a Kubernetes API is in reach, asked with what is here anyway: the pod's own token, or
kubectl. Nothing is changed there."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_PATIENCE_S: Final = 5
_KSERVE: Final = "/apis/serving.kserve.io"
NONE_NEEDED: Final = "none in reach; only the rollout commands need one"


def look(account: Path = _ACCOUNT) -> tuple[bool, str]:
    """Whether nothing is amiss, and a line about it."""
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return _inside(account)
    given = os.environ.get("KUBECONFIG") or "~/.kube/config"
    files = [Path(each).expanduser() for each in given.split(os.pathsep) if each]
    there = [str(file) for file in files if file.is_file()]
    if not there:
        absent = os.environ.get("KUBECONFIG")
        return (False, f"KUBECONFIG={absent}: no such file") if absent else (False, NONE_NEEDED)
    return _by_kubectl(os.pathsep.join(there))


def _inside(account: Path) -> tuple[bool, str]:
    """From a pod, as its service account."""
    token, authority = account / "token", account / "ca.crt"
    if not token.is_file():
        return True, "inside a pod, without a service account's token: none is needed to serve"
    host = os.environ["KUBERNETES_SERVICE_HOST"]
    host = f"[{host}]" if ":" in host else host
    base = f"https://{host}:{os.environ.get('KUBERNETES_SERVICE_PORT', '443')}"

    def ask(path: str) -> dict[str, str]:
        headers = {"Authorization": f"Bearer {token.read_text().strip()}"}
        # S310 warns of file: addresses; `base` begins with https.
        request = urllib.request.Request(base + path, headers=headers)  # noqa: S310
        context = ssl.create_default_context(cafile=str(authority))
        with urllib.request.urlopen(request, timeout=_PATIENCE_S, context=context) as answer:  # noqa: S310
            found: dict[str, str] = json.load(answer)
            return found

    try:
        version = ask("/version")["gitVersion"]
    except (OSError, ValueError, LookupError) as error:
        said = getattr(error, "reason", error)
        return False, f"inside a pod; {base} does not answer ({said}): does a policy forbid it?"
    try:
        ask(_KSERVE)
    except urllib.error.HTTPError as error:
        return False, f"inside a pod of Kubernetes {version}; KServe is not there ({error.code})"
    except (OSError, ValueError) as error:
        return False, f"inside a pod of Kubernetes {version}; no answer about KServe: {error}"
    return True, f"inside a pod of Kubernetes {version}, with KServe"


def _by_kubectl(config: str) -> tuple[bool, str]:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        return False, f"{config} is there; install kubectl to try it"

    def ask(path: str) -> subprocess.CompletedProcess[str]:
        command = [kubectl, "get", "--raw", path, f"--request-timeout={_PATIENCE_S}s"]
        return subprocess.run(  # noqa: S603  # a path of our own
            command, capture_output=True, text=True, check=False, timeout=4 * _PATIENCE_S
        )

    try:
        version, kserve = ask("/version"), ask(_KSERVE)
        if version.returncode != 0:
            said = (version.stderr.strip().splitlines() or ["no reason given"])[-1]
            return False, f"{config}: {said}; try kubectl cluster-info"
        name = json.loads(version.stdout)["gitVersion"]
    except (OSError, ValueError, LookupError, subprocess.TimeoutExpired) as error:
        return False, f"{config}: {error}; try kubectl cluster-info"
    if kserve.returncode != 0:
        return False, f"{config}: Kubernetes {name} answers, without KServe: install it"
    return True, f"{config}: Kubernetes {name} answers, with KServe"
