"""What webhooks say to an object: the rules of tests/manifests, in the webhooks' own words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.cluster.fake.workloads import FLAGS
from tests.manifests import knative_rules, kserve_rules

Object = dict[str, Any]
Key = tuple[str, str, str]  # kind, namespace, name


def denied(body: Object, before: Object | None = None) -> str | None:
    """Why KServe's or Knative's webhook refuses an object, or a change of `before`; None: it does
    not."""
    if body["kind"] == "InferenceService":
        said = list(kserve_rules.refusals(body, before))
        who = "inferenceservice.kserve-webhook-server.validator"
    elif body["apiVersion"].startswith("serving.knative.dev/"):
        said = list(knative_rules.refusals(body, FLAGS, 3600))
        who = "validation.webhook.serving.knative.dev"
    else:
        return None
    text = f'admission webhook "{who}" denied the request: validation failed: '
    return text + said[0] if said else None


def no_account(body: Object, namespace: str, there: Iterable[Key]) -> str | None:
    """Why Knative's webhook refuses a service: its dry run of a pod asks for the account."""
    accounts = {
        name for kind, where, name in there if (kind, where) == ("ServiceAccount", namespace)
    }
    return knative_rules.missing_account(body, namespace, accounts)
