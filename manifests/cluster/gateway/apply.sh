#!/usr/bin/env bash
# The way in for Standard mode: a Gateway with HTTPS, and KServe told to use it. Once per cluster. Set
# the domain in gateway.yaml, and there the Gateway's class and cert-manager's issuer (a wildcard
# certificate needs one that solves DNS-01; without cert-manager put your own certificate into the
# Secret). KServe then names a service NAME-NAMESPACE.DOMAIN, which the listener's wildcard covers.
# Of KServe's configuration only the keys below change. `kubectl apply` would take every other one
# away; a whole `ingress` of ours would undo what the cluster's Knative needs there, such as
# disableIstioVirtualHost with Kourier, without which services get host names that nobody answers.
set -euo pipefail
cd "$(dirname "$0")"
kubectl apply --filename gateway.yaml
domain=$(kubectl get --filename gateway.yaml --output jsonpath='{.spec.listeners[0].hostname}')
ours="\"ingressDomain\": \"${domain#\*.}\", \"enableGatewayApi\": true, \"urlScheme\": \"https\", \
\"kserveIngressGateway\": \"kserve/kserve-ingress-gateway\", \
\"domainTemplate\": \"{{ .Name }}-{{ .Namespace }}.{{ .IngressDomain }}\""
theirs=$(kubectl get configmap inferenceservice-config --namespace kserve --output jsonpath='{.data.ingress}' | tr -d '\n' \
    | sed -E 's/"(ingressDomain|enableGatewayApi|urlScheme|kserveIngressGateway|domainTemplate)" *: *("[^"]*"|true|false) *,?//g')
ingress=$(sed -E "s|\{|{${ours}, |; s|, *\}$|}|" <<<"${theirs}")
patch=$(printf 'data:\n  ingress: |-\n    %s' "${ingress}")
kubectl patch configmap inferenceservice-config --namespace kserve --type merge --patch "${patch}"
kubectl rollout restart deployment kserve-controller-manager --namespace kserve
