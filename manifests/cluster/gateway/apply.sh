#!/usr/bin/env bash
# The way in for Standard mode: a Gateway with HTTPS, and KServe told to use it. Once per cluster. Set
# the domain in gateway.yaml, and there the Gateway's class and cert-manager's issuer (a wildcard
# certificate needs one that solves DNS-01; without cert-manager put your own certificate into the
# Secret). KServe then names a service NAME-NAMESPACE.DOMAIN, which the listener's wildcard covers.
# A merge patch of KServe's configuration: `kubectl apply` would take every other key of it away.
set -euo pipefail
cd "$(dirname "$0")"
kubectl apply --filename gateway.yaml
domain=$(kubectl get --filename gateway.yaml --output jsonpath='{.spec.listeners[0].hostname}')
patch=$(sed "s/DOMAIN-OF-THE-LISTENER/${domain#\*.}/" kserve-ingress.yaml)
kubectl patch configmap inferenceservice-config --namespace kserve --type merge --patch "${patch}"
kubectl rollout restart deployment kserve-controller-manager --namespace kserve
