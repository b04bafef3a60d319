#!/usr/bin/env bash
# Adds the settings in this folder to the ConfigMaps of a Knative that was installed from YAML. Merge
# patches: `kubectl apply` would take every other key away, its --server-side too where Knative was
# installed by kubectl. Knative installed by its operator: see operator-patch.yaml.
set -euo pipefail
cd "$(dirname "$0")"
# Knative's webhook judges every change: while it starts, there is nobody to ask and each is refused.
kubectl wait --for=condition=Available deployment/webhook --namespace knative-serving --timeout=10m
for name in features autoscaler defaults; do
    kubectl patch configmap "config-${name}" --namespace knative-serving --type merge --patch-file "config-${name}.yaml"
done
