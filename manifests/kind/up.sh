#!/usr/bin/env bash
# overlays/dev-cpu on a kind cluster with KServe. Needs docker, kind and kubectl; downloads KServe's
# released installer. Run from the repository's root, again and again without harm.
set -euo pipefail

KSERVE_VERSION=${KSERVE_VERSION:-v0.20.0}
IMAGE=dev.local/qwen3-asr/predictor
VERSION=0.1.0
INSTALLER=https://github.com/kserve/kserve/releases/download/${KSERVE_VERSION}/kserve-knative-mode-full-install-with-manifests.sh

kind get clusters | grep --line-regexp --quiet qwen3-asr || kind create cluster --config manifests/kind/kind.yaml
kubectl config use-context kind-qwen3-asr

if ! kubectl get crd inferenceservices.serving.kserve.io >/dev/null 2>&1; then
    downloaded=$(mktemp)
    curl --fail --silent --show-error --location "${INSTALLER}" --output "${downloaded}"
    bash "${downloaded}"
fi
kubectl wait --for=condition=Available deployment --all --namespace kserve --timeout=10m

make image-cpu PREDICTOR_IMAGE="${IMAGE}" VERSION="${VERSION}"
kind load docker-image "${IMAGE}:${VERSION}-cpu" --name qwen3-asr

kubectl apply --server-side --kustomize manifests/overlays/dev-cpu
kubectl wait --for=condition=Ready inferenceservice/qwen3-asr --namespace qwen3-asr --timeout=15m

cat <<'NEXT'
Ready. In another terminal:
  kubectl port-forward --namespace istio-system service/istio-ingressgateway 8080:80
Then:
  HOST=$(kubectl get isvc qwen3-asr -n qwen3-asr -o jsonpath='{.status.url}' | cut -d/ -f3)
  curl -H "Host: $HOST" -F file=@RECORDING.flac -F model=qwen3-asr http://127.0.0.1:8080/v1/audio/transcriptions
NEXT
