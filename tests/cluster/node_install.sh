# Sourced by node.sh: Knative with Kourier, KServe and Envoy Gateway, by the YAML of their modules.

released() { # YAML of a module's folder, with the images that are here
    find -L "$@" -name '*.yaml' -print0 | sort -z | xargs -0 -I{} sh -c 'cat {}; echo; echo ---' | sed \
        -e 's,ko://knative.dev/serving/cmd/\([a-z]*\),dev.local/knative/\1:v1.21.1,' \
        -e 's,ko://knative.dev/net-kourier/cmd/kourier,dev.local/knative/kourier:v1.21.0,' \
        -e "s,docker.io/envoyproxy/envoy:.*,dev.local/envoy:v$ENVOY," \
        -e 's,app.kubernetes.io/version: devel,app.kubernetes.io/version: 1.21.1,' \
        -e 's,imagePullPolicy: Always,imagePullPolicy: IfNotPresent,'
}

knative() {
    local modules core
    modules=$(go env GOMODCACHE) core=$(go env GOMODCACHE)/knative.dev/serving@v$KNATIVE/config/core
    $APPLY --filename "$core/100-namespace.yaml"
    released "$core/300-resources" "$modules"/knative.dev/{networking,caching}@*20260120*/config | $APPLY --filename -
    # But for the HorizontalPodAutoscalers: one node has room for one of each.
    released "$core"/{200-roles,200-serviceaccount.yaml,300-knativecertificate.yaml,configmaps,webhooks} \
        "$core"/deployments/{activator,autoscaler,controller,webhook}.yaml | $APPLY --filename -
    released "$modules/knative.dev/net-kourier@v$NET_KOURIER/config" | $APPLY --filename -
    kubectl delete horizontalpodautoscalers --all --namespace kourier-system
    # Every change below is asked of this webhook, which a busy machine has not started yet.
    kubectl wait --for=condition=Available deployment/webhook --namespace knative-serving --timeout=10m
    kubectl patch configmap config-network --namespace knative-serving --type merge --patch \
        '{"data": {"ingress-class": "kourier.ingress.networking.knative.dev"}}'
    # Without a domain every service is the cluster's own, and Kourier's address knows none.
    kubectl patch configmap config-domain --namespace knative-serving --type merge --patch '{"data": {"example.com": ""}}'
    "$HERE/../../manifests/cluster/knative/apply.sh"
    kubectl patch service kourier --namespace kourier-system --patch "{\"spec\": {\"externalIPs\": [\"$NODE\"]}}"
    # A node of two cores: what is left of them is for the tests.
    kubectl set resources deployment --all --namespace knative-serving --requests=cpu=50m
    kubectl set resources deployment --all --namespace kourier-system --requests=cpu=50m
    kubectl wait --for=condition=Available deployment --all --namespace knative-serving --timeout=10m
    kubectl wait --for=condition=Available deployment --all --namespace kourier-system --timeout=10m
}

kserve() {
    local module
    module=$(go env GOMODCACHE)/github.com/kserve/kserve@v$KSERVE
    go mod download "github.com/kedacore/keda/v2@v$KEDA" "sigs.k8s.io/gateway-api@v$GATEWAY_API"
    kubectl create namespace kserve --dry-run=client --output yaml | $APPLY --filename -
    $APPLY --filename "$module/install/v$KSERVE/kserve-crds.yaml" \
        --filename "$(go env GOMODCACHE)/sigs.k8s.io/gateway-api@v$GATEWAY_API/config/crd/standard"
    # KEDA's kinds without KEDA: production-standard's replicas stay as many as KServe starts.
    $APPLY --filename "$(go env GOMODCACHE)/github.com/kedacore/keda/v2@v$KEDA/config/crd/bases"
    # The Prometheus operator's kinds without the operator: monitors and rules are accepted, nobody scrapes.
    go mod download "github.com/prometheus-operator/prometheus-operator@v$PROMETHEUS_OPERATOR"
    for kind in podmonitors prometheusrules prometheuses; do
        $APPLY --filename "$(go env GOMODCACHE)/github.com/prometheus-operator/prometheus-operator@v$PROMETHEUS_OPERATOR/\
example/prometheus-operator-crd/monitoring.coreos.com_$kind.yaml"
    done
    certificate kserve DNS:kserve-webhook-server-service.kserve.svc
    kubectl create secret tls kserve-webhook-server-cert --namespace kserve --cert kserve.crt --key kserve.key \
        --dry-run=client --output yaml | $APPLY --filename -
    # But for cert-manager's objects and the controllers that this node does not run.
    sed 's,imagePullPolicy: Always,imagePullPolicy: IfNotPresent,' "$module/install/v$KSERVE/kserve.yaml" \
        | $APPLY --filename - || true
    kubectl delete --namespace kserve deployment/llmisvc-controller-manager \
        deployment/kserve-localmodel-controller-manager daemonset/kserve-localmodelnode-agent
    # No image of kube-rbac-proxy, which guards the manager's metrics.
    kubectl patch deployment kserve-controller-manager --namespace kserve --type json \
        --patch '[{"op": "remove", "path": "/spec/template/spec/containers/1"}]'
    trust_webhooks
    # As KServe's documentation has it for a Knative without Istio.
    kubectl get configmap inferenceservice-config --namespace kserve --output yaml \
        | sed 's/"disableIstioVirtualHost": false/"disableIstioVirtualHost": true/' | kubectl replace --filename -
    kubectl rollout restart deployment kserve-controller-manager --namespace kserve
    kubectl rollout status deployment kserve-controller-manager --namespace kserve --timeout=10m
}

gateway() { # Envoy Gateway: its chart needs helm; this is what it makes that this node wants
    local module
    on_debian envoy-gateway $ENVOY_GATEWAY
    module=$(go env GOMODCACHE)/github.com/envoyproxy/gateway@v$ENVOY_GATEWAY
    find "$module/charts/gateway-crds-helm/templates/generated" -name '*.yaml' -exec \
        sed '/^{{/d' {} + | $APPLY --filename -
    $APPLY --filename - <<YAML
apiVersion: v1
kind: Namespace
metadata: {name: envoy-gateway-system}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: envoy-gateway, namespace: envoy-gateway-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: envoy-gateway}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: ServiceAccount, name: envoy-gateway, namespace: envoy-gateway-system}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: envoy-gateway-config, namespace: envoy-gateway-system}
data:
  envoy-gateway.yaml: |
    apiVersion: gateway.envoyproxy.io/v1alpha1
    kind: EnvoyGateway
    gateway: {controllerName: gateway.envoyproxy.io/gatewayclass-controller}
    provider:
      type: Kubernetes
      kubernetes:
        shutdownManager: {image: "dev.local/envoy-gateway:v$ENVOY_GATEWAY"}
        leaderElection: {disable: true}  # a crowded node loses its lease, and then nothing is routed
    logging: {level: {default: info}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: certgen, namespace: envoy-gateway-system}
spec:
  template:
    spec:
      serviceAccountName: envoy-gateway
      restartPolicy: OnFailure
      containers:
        - name: certgen
          image: dev.local/envoy-gateway:v$ENVOY_GATEWAY
          command: [envoy-gateway, certgen, --disable-topology-injector]
          env:
            - {name: ENVOY_GATEWAY_NAMESPACE, value: envoy-gateway-system}
            - {name: KUBERNETES_CLUSTER_DOMAIN, value: cluster.local}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: envoy-gateway, namespace: envoy-gateway-system, labels: {control-plane: envoy-gateway}}
spec:
  selector: {matchLabels: {control-plane: envoy-gateway}}
  template:
    metadata: {labels: {control-plane: envoy-gateway}}
    spec:
      serviceAccountName: envoy-gateway
      containers:
        - name: envoy-gateway
          image: dev.local/envoy-gateway:v$ENVOY_GATEWAY
          command: [envoy-gateway, server, --config-path=/config/envoy-gateway.yaml]
          env:
            - {name: ENVOY_GATEWAY_NAMESPACE, value: envoy-gateway-system}
            - {name: KUBERNETES_CLUSTER_DOMAIN, value: cluster.local}
          readinessProbe: {httpGet: {path: /readyz, port: 8081}}
          volumeMounts: [{name: config, mountPath: /config}, {name: certs, mountPath: /certs}]
      volumes:
        - {name: config, configMap: {name: envoy-gateway-config}}
        - {name: certs, secret: {secretName: envoy-gateway}}
---
apiVersion: v1
kind: Service
metadata: {name: envoy-gateway, namespace: envoy-gateway-system}
spec:
  selector: {control-plane: envoy-gateway}
  ports: [{name: grpc, port: 18000}, {name: ratelimit, port: 18001}, {name: wasm, port: 18002}]
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyProxy
metadata: {name: node, namespace: envoy-gateway-system}
spec:
  provider:
    type: Kubernetes
    kubernetes:
      envoyDeployment: {container: {image: "dev.local/envoy:v$ENVOY", resources: {requests: {cpu: 50m, memory: 128Mi}}}}
      envoyService: {type: ClusterIP, patch: {value: {spec: {externalIPs: ["$GATEWAY"]}}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: envoy}
spec:
  controllerName: gateway.envoyproxy.io/gatewayclass-controller
  parametersRef: {group: gateway.envoyproxy.io, kind: EnvoyProxy, name: node, namespace: envoy-gateway-system}
YAML
    kubectl rollout status deployment envoy-gateway --namespace envoy-gateway-system --timeout=10m
    certificate gateway 'DNS:*.asr.example.com'
    kubectl create secret tls qwen3-asr-tls --namespace kserve --cert gateway.crt --key gateway.key \
        --dry-run=client --output yaml | $APPLY --filename -
    "$HERE/../../manifests/cluster/gateway/apply.sh"
}
