#!/usr/bin/env bash
# A control plane without nodes, built from released Go modules: Kubernetes' API server and controllers,
# KServe's manager, Knative's webhook and controller. What it accepts, a cluster of these versions
# accepts; nothing runs in it. Needs go, openssl, kubectl; the first build takes 20 minutes.
#   tests/cluster/control_plane.sh up FOLDER     then  export KUBECONFIG=FOLDER/kubeconfig
#   tests/cluster/control_plane.sh down FOLDER
set -euo pipefail
KUBERNETES=1.34.4 ETCD=3.6.12 KSERVE=0.20.0 KNATIVE=0.48.1 NET_KOURIER=0.48.0 GATEWAY_API=1.5.1 KEDA=2.18.0 PROMETHEUS_OPERATOR=0.85.0  # Knative 0.48.1 is 1.21.1
ACTION=${1:?up or down} FOLDER=$(mkdir -p "${2:?a folder}" && cd "$2" && pwd)
# node.sh sets these: where programs run, and where the API server is reached.
WITHIN="" API=127.0.0.1 WITHOUT_NODES=--disable-admission-plugins=ServiceAccount
CONTROLLERS=*,-nodelifecycle,-nodeipam,-cloud-node-lifecycle,-node-route-controller,-service-lb-controller
cd "$FOLDER"

down() {
    for file in *.pid; do
        if [ -e "$file" ]; then
            # At once: nothing here is kept, and an API server without its etcd ends late.
            pkill -KILL --session "$(cat "$file")" || true
            rm "$file"
        fi
    done
}

start() { # name, command...
    local name=$1
    shift
    # A session for each: Linux shares a busy machine's time between sessions. Before pods, whose
    # groups would leave an API server of low priority a twentieth of the time (not root: as it is).
    nohup nice --adjustment=-5 setsid ${WITHIN:-} "$@" >"$name.log" 2>&1 &
    echo $! >"$name.pid"
}

module() { # folder; go.mod is on stdin
    mkdir -p "$1"
    cat >"$1/go.mod"
}

compile() { # folder of the module, program's package, file, more flags
    if [ -x "$3" ]; then return; fi # of a run before
    # -mod=mod asks for what the program needs; `go mod tidy` would ask for all tests' needs too.
    (cd "$1" && nice go build -mod=mod -ldflags "-s -w ${4:-}" -o "../$3" "$2")
}

build() {
    local source replaced
    source=$(go mod download -json "k8s.io/kubernetes@v$KUBERNETES" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
    replaced=$(grep '=> ./staging' "$source/go.mod" | awk -v v="v0.${KUBERNETES#1.}" '{print "replace " $1 " => " $1 " " v}')
    module kubernetes <<<"module tools
go 1.25.0
require k8s.io/kubernetes v$KUBERNETES
$replaced"
    for name in kube-apiserver kube-controller-manager; do kubernetes $name; done
    # Debian 12's 3.4.23 knows no progress of a watch when asked (that is 3.4.25), so what the API
    # server keeps of a kind that does not change falls behind its store.
    module etcd.module <<<"module tools
go 1.25.0
require go.etcd.io/etcd/server/v3 v$ETCD"
    CGO_ENABLED=0 compile etcd.module go.etcd.io/etcd/server/v3 etcd
    source=$(go mod download -json "github.com/kserve/kserve@v$KSERVE" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
    module kserve <<<"module tools
go 1.25.8
require github.com/kserve/kserve v$KSERVE
$(sed -n '/^replace/,$p' "$source/go.mod")"
    CGO_ENABLED=0 compile kserve github.com/kserve/kserve/cmd/manager kserve-manager
    # Apart: with KServe's newer OpenTelemetry Knative does not compile, or ends at its start.
    module knative <<<"module tools
go 1.25.0
require (
	knative.dev/serving v$KNATIVE
	knative.dev/net-kourier v$NET_KOURIER
)"
    for name in webhook controller; do
        CGO_ENABLED=0 compile knative knative.dev/serving/cmd/$name knative-$name
    done
}

kubernetes() { # a program of its own
    compile kubernetes "k8s.io/kubernetes/cmd/$1" "$1" "-X k8s.io/component-base/version.gitVersion=v$KUBERNETES"
}

certificate() { # name, alternative names
    openssl req -newkey rsa:2048 -nodes -keyout "$1.key" -out "$1.csr" -subj "/CN=$1" 2>/dev/null
    openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -out "$1.crt" -days 30 \
        -extfile <(echo "subjectAltName=$2") 2>/dev/null
}

api_server() {
    openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 30 -subj "/CN=ca" 2>/dev/null
    openssl genrsa -out sa.key 2048 2>/dev/null
    certificate apiserver "IP:127.0.0.1,IP:$ADDRESS,IP:10.96.0.1,DNS:kubernetes.default.svc"
    local token
    token=$(openssl rand -hex 16)
    echo "$token,admin,admin,system:masters" >tokens.csv
    cat >kubeconfig <<YAML
apiVersion: v1
kind: Config
clusters: [{name: it, cluster: {server: "https://$API:16443", certificate-authority: $FOLDER/ca.crt}}]
users: [{name: me, user: {token: $token}}]
contexts: [{name: it, context: {cluster: it, user: me}}]
current-context: it
YAML
    rm -rf etcd-data
    # Nothing is kept, so nothing waits for the disk of a busy machine.
    start etcd ./etcd --unsafe-no-fsync --data-dir etcd-data --listen-client-urls http://127.0.0.1:12379 \
        --advertise-client-urls http://127.0.0.1:12379 --listen-peer-urls http://127.0.0.1:12380
    # Webhooks are reached by their endpoints' addresses: there is no service network.
    start apiserver ./kube-apiserver --etcd-servers=http://127.0.0.1:12379 --secure-port=16443 \
        --advertise-address="$ADDRESS" --tls-cert-file=apiserver.crt --tls-private-key-file=apiserver.key \
        --token-auth-file=tokens.csv --authorization-mode=RBAC --enable-aggregator-routing=true \
        --service-account-issuer=https://kubernetes.default.svc --service-account-key-file=sa.key \
        --service-account-signing-key-file=sa.key --service-cluster-ip-range=10.96.0.0/16 \
        $WITHOUT_NODES
    curl --silent --cacert ca.crt --retry 60 --retry-all-errors --retry-delay 1 --fail \
        --header "Authorization: Bearer $token" "https://$API:16443/readyz" >/dev/null
    start controllers ./kube-controller-manager --kubeconfig=kubeconfig --leader-elect=false \
        --service-account-private-key-file=sa.key --root-ca-file=ca.crt --secure-port=0 \
        --controllers="$CONTROLLERS"
}

webhook_service() { # name, namespace, port
    kubectl delete service "$1" --namespace "$2" --ignore-not-found >/dev/null
    kubectl apply --filename - 2>/dev/null <<YAML
apiVersion: v1
kind: Service
metadata: {name: $1, namespace: $2}
spec: {ports: [{name: https, port: 443, targetPort: $3}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: $1, namespace: $2}
subsets: [{addresses: [{ip: $ADDRESS}], ports: [{name: https, port: $3}]}]
YAML
}

trust_webhooks() { # KServe's, without those of managers that do not run here
    for kind in validatingwebhookconfiguration mutatingwebhookconfiguration; do
        kubectl get $kind -o name | grep -E 'llminference|localmodel' | xargs --no-run-if-empty kubectl delete
        for name in $(kubectl get $kind -o name | grep kserve); do
            for index in $(seq 0 $(($(kubectl get "$name" -o jsonpath='{range .webhooks[*]}x{end}' | wc -c) - 1))); do
                kubectl patch "$name" --type json -p "[{\"op\": \"add\",
                    \"path\": \"/webhooks/$index/clientConfig/caBundle\", \"value\": \"$(base64 -w0 ca.crt)\"}]"
            done
        done
    done
}

install() {
    local modules kserve knative apply="kubectl apply --server-side --force-conflicts"
    modules=$(go env GOMODCACHE)
    go mod download "github.com/kedacore/keda/v2@v$KEDA" "sigs.k8s.io/gateway-api@v$GATEWAY_API"
    kserve="$modules/github.com/kserve/kserve@v$KSERVE" knative="$modules/knative.dev/serving@v$KNATIVE/config/core"
    for name in kserve knative-serving; do kubectl create namespace "$name"; done
    $apply -f "$kserve/install/v$KSERVE/kserve-crds.yaml" -f "$modules/sigs.k8s.io/gateway-api@v$GATEWAY_API/config/crd/standard"
    $apply -R -f "$kserve/config/crd/full/localmodel" || true  # a kustomization.yaml is no object
    $apply -f "$modules/github.com/kedacore/keda/v2@v$KEDA/config/crd/bases" || true
    for folder in "$knative/300-resources" "$knative/configmaps" "$knative/webhooks" \
        "$modules"/knative.dev/networking@*20260120*/config "$modules"/knative.dev/caching@*20260120*/config; do
        find -L "$folder" -name '*.yaml' -exec $apply -f {} \;
    done
    $apply -f "$kserve/install/v$KSERVE/kserve.yaml" || true  # but for cert-manager's objects
    kubectl delete deployment --all --namespace kserve
    # Versions as an installed KServe and Knative show them, without pods.
    kubectl create deployment kserve-controller-manager -n kserve --image="manager:v$KSERVE" --replicas=0
    kubectl create deployment controller -n knative-serving --image=controller:v1.21.1 --replicas=0
    trust_webhooks
    webhook_service kserve-webhook-server-service kserve 9443
    webhook_service webhook knative-serving 8443
}

managers() {
    certificate kserve DNS:kserve-webhook-server-service.kserve.svc
    # Where the manager looks for its certificate, whatever TMPDIR says.
    local certificates=/tmp/k8s-webhook-server/serving-certs
    mkdir -p "$certificates" && cp kserve.crt "$certificates/tls.crt" && cp kserve.key "$certificates/tls.key"
    POD_NAMESPACE=kserve start kserve ./kserve-manager --webhook-port=9443 --metrics-addr=:18080 --health-probe-addr=:18081
    export SYSTEM_NAMESPACE=knative-serving CONFIG_LOGGING_NAME=config-logging METRICS_DOMAIN=knative.dev/serving
    export CONFIG_OBSERVABILITY_NAME=config-observability WEBHOOK_NAME=webhook WEBHOOK_PORT=8443
    POD_NAME=webhook-0 start knative-webhook ./knative-webhook -kubeconfig kubeconfig
    POD_NAME=controller-0 start knative-controller ./knative-controller -kubeconfig kubeconfig
}

[ "$0" = "${BASH_SOURCE[0]}" ] || return 0
case $ACTION in
up)
    down
    ADDRESS=$(hostname -I | awk '{print $1}')
    build
    api_server
    export KUBECONFIG=$FOLDER/kubeconfig
    install
    managers
    ;;
down) down ;;
esac
