#!/usr/bin/env bash
# One whole node on a Debian machine, as root, without a container registry and without touching the
# machine's own network: control_plane.sh's programs, kubelet, kube-proxy and containerd in a network
# namespace `node`, and in its pods Knative with Kourier and KServe as they are released, in
# images that are made here of the built programs, a Debian base and this repository.
#   apt-get install --no-install-recommends runc containernetworking-plugins iptables conntrack \
#       ipset dnsmasq-base debootstrap gcc rsync openssl       (and go, kubectl)
#   tests/cluster/node.sh up FOLDER     then  export KUBECONFIG=FOLDER/kubeconfig
#       QWEN3_ASR_ENTRY=http://10.200.0.2 QWEN3_ASR_GATEWAY=https://10.200.0.3
#   tests/cluster/node.sh down FOLDER
# Any function below is a step of its own: tests/cluster/node.sh predictor FOLDER
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=control_plane.sh
source "$HERE/control_plane.sh" "$@"
# shellcheck source=node_images.sh
source "$HERE/node_images.sh"
# shellcheck source=node_install.sh
source "$HERE/node_install.sh"
CONTAINERD=2.2.9 ENVOY=1.40.0 ENVOY_GATEWAY=1.8.1 KUBE_ROUTER=2.1.0 SUITE=bookworm
PYTHON=${PYTHON:-$HERE/../../.venv/bin/python} # an environment with this repository's requirements.lock
NODE=10.200.0.2 GATEWAY=10.200.0.3 SOCKET=/run/qwen3-asr-node/containerd.sock
WITHIN="nsenter --net=/run/netns/node" API=$NODE ADDRESS=$NODE
WITHOUT_NODES="--allow-privileged=true --kubelet-preferred-address-types=InternalIP --feature-gates=ImageVolume=true"
CONTROLLERS=*,-nodeipam,-cloud-node-lifecycle,-node-route-controller,-service-lb-controller
export KUBECONFIG=$FOLDER/kubeconfig PATH=$FOLDER:$PATH # its containerd is not Debian's
APPLY="kubectl apply --server-side --force-conflicts"

network() {
    if [ -e /run/netns/node ]; then return; fi
    ip netns add node
    ip link add node0 type veth peer name eth0 netns node
    ip address add 10.200.0.1/24 dev node0
    ip link set node0 up
    ip -n node address add "$NODE/24" dev eth0
    ip -n node address add "$GATEWAY/24" dev eth0
    ip -n node link set eth0 up
    ip -n node link set lo up
    ip -n node route add default via 10.200.0.1
    $WITHIN sysctl -qw net.ipv4.ip_forward=1
}

containers() {
    mkdir -p cni "$(dirname $SOCKET)"
    cat >cni/10-bridge.conflist <<JSON
{"cniVersion": "1.0.0", "name": "node", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.0.0/24"}]], "dataDir": "$FOLDER/addresses", "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
JSON
    cat >containerd.toml <<TOML
version = 3
root = "$FOLDER/store"
state = "$(dirname $SOCKET)/state"
[grpc]
  address = "$SOCKET"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "dev.local/pause:3.10"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true  # a machine without CAP_SYS_RESOURCE cannot lower it
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "$FOLDER/cni"
TOML
    start containerd containerd --config containerd.toml
    until ctr -a $SOCKET version >/dev/null 2>&1; do sleep 0.2; done
}

scheduler() {
    start scheduler ./kube-scheduler --kubeconfig=kubeconfig --leader-elect=false --secure-port=0
}

kubelet() {
    cat >kubelet.yaml <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix://$SOCKET
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
failSwapOn: false
featureGates: {ImageVolume: true}  # on by itself from Kubernetes 1.35
imageGCHighThresholdPercent: 100  # an image that is gone cannot be pulled again
imageGCLowThresholdPercent: 99
podLogsDir: $FOLDER/pod-logs
resolvConf: $FOLDER/resolv.conf
YAML
    echo "nameserver 10.96.0.10" >resolv.conf
    start kubelet ./kubelet --config=kubelet.yaml --kubeconfig=kubeconfig --root-dir="$FOLDER/kubelet-data" \
        --hostname-override=node --node-ip=$NODE --cert-dir="$FOLDER/kubelet-certificates"
    cat >kube-proxy.yaml <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: 10.244.0.0/24
hostnameOverride: node
clientConnection: {kubeconfig: $FOLDER/kubeconfig}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
YAML
    start kube-proxy ./kube-proxy --config=kube-proxy.yaml
    until kubectl get node node >/dev/null 2>&1; do sleep 1; done
    kubectl wait --for=condition=Ready node/node --timeout=5m
    # What the results name, and the API does not know.
    kubectl label node node --overwrite "dev.local/etcd=$ETCD" "dev.local/envoy=$ENVOY" "dev.local/kube-router=$KUBE_ROUTER"
}

policies() { # kube-router, of which only the enforcement of network policies is wanted
    start kube-router ./kube-router --kubeconfig=kubeconfig --hostname-override=node --run-firewall=true \
        --run-router=false --run-service-proxy=false --service-cluster-ip-range=10.96.0.0/16
    until $WITHIN iptables --numeric --list KUBE-ROUTER-FORWARD >/dev/null 2>&1; do sleep 1; done
}

names() { # the cluster's DNS: dnsmasq beside the node, with a file for each service
    mkdir -p hosts
    start dns dnsmasq --keep-in-foreground --no-resolv --no-hosts --bind-interfaces --listen-address=$NODE \
        --local=/cluster.local/ --hostsdir="$FOLDER/hosts" --pid-file= --user=root
    start services "$HERE/node.sh" services "$FOLDER"
    $APPLY --filename - <<YAML
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: 10.96.0.10
  ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
---
apiVersion: v1
kind: Endpoints
metadata: {name: kube-dns, namespace: kube-system}
subsets:
  - addresses: [{ip: $NODE}]
    ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: folder, annotations: {storageclass.kubernetes.io/is-default-class: "true"}}
provisioner: dev.local/folder
YAML
}

services() {
    local each=.object.metadata to
    watched get services --output-watch-events --output jsonpath="{.type} {$each.namespace} {$each.name} \
{.object.spec.clusterIP}={.object.spec.externalName}{'\n'}" | while read -r event namespace name to; do
        if [ "$event" = DELETED ]; then
            rm -f "hosts/$name.$namespace"
            kill -HUP "$(cat dns.pid)"
            continue
        fi
        address=${to%%=*} alias=${to#*=}
        # An ExternalName, which is how Knative leads its services' names to Kourier.
        if [ -n "$alias" ]; then address=$(cut -d' ' -f1 "hosts/${alias%.svc.cluster.local}") || continue; fi
        if [ "$address" != None ]; then echo "$address $name.$namespace.svc.cluster.local" >"hosts/$name.$namespace"; fi
    done
}

watched() { # kubectl's arguments; the API server ends a watch after half an hour to an hour
    while sleep 1; do kubectl "$@" --all-namespaces --watch || true; done
}

claims() { # the StorageClass's provisioner: a local volume for each claim, which knows fsGroup
    local name folder
    watched get persistentvolumeclaims --no-headers --output \
        'custom-columns=:.metadata.uid,:.metadata.namespace,:.metadata.name,:.spec.storageClassName,:.status.phase' \
        | while read -r uid namespace claim class phase; do
        if [ "$class" != folder ] || [ "$phase" != Pending ]; then continue; fi
        folder=$FOLDER/volumes/$uid
        mkdir -p "$folder"
        # Until it is there: no later event speaks of this claim, and a failure would end the loop.
        until $APPLY --filename - <<YAML
apiVersion: v1
kind: PersistentVolume
metadata: {name: pvc-$uid}
spec:
  capacity: {storage: 20Gi}
  accessModes: [ReadWriteOnce, ReadWriteMany, ReadOnlyMany]
  storageClassName: folder
  claimRef: {namespace: $namespace, name: $claim, uid: $uid}
  local: {path: $folder}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [
    {key: kubernetes.io/hostname, operator: In, values: [node]}]}]}}
YAML
        do sleep 1; done
    done
}

take_down() { # pods first, then what ran them, then what they leave: mounts, groups, addresses
    local each
    if [ -e kubelet.pid ]; then pkill -KILL --session "$(cat kubelet.pid)" || true; fi
    if [ -e containerd.pid ] && ctr -a $SOCKET version >/dev/null 2>&1; then
        ctr -a $SOCKET -n k8s.io tasks ls --quiet | xargs --no-run-if-empty -n1 ctr -a $SOCKET -n k8s.io tasks kill --signal KILL || true
        ctr -a $SOCKET -n k8s.io containers ls --quiet | xargs --no-run-if-empty ctr -a $SOCKET -n k8s.io containers rm || true
    fi
    down
    awk -v folder="$FOLDER/" -v state="$(dirname $SOCKET)/" \
        'index($2, folder) == 1 || index($2, state) == 1 {print $2}' /proc/mounts | sort -r | xargs --no-run-if-empty umount || true
    find /sys/fs/cgroup -depth -type d -path '*/kubepods*' -exec rmdir {} + 2>/dev/null || true
    # Pods' network namespaces too: their bridge is in the node's.
    for each in $(ip netns list | awk '$1 == "node" || /^cni-/ {print $1}'); do ip netns delete "$each"; done
    rm -rf --one-file-system "$(dirname $SOCKET)" addresses etcd-data hosts kubelet-data pod-logs volumes
}

case $ACTION in
up)
    take_down
    network
    build
    programs
    later &
    LATER=$!
    containers
    debian
    images
    predictor
    weights
    api_server
    scheduler
    kubelet
    names
    start claims "$HERE/node.sh" claims "$FOLDER"
    knative
    kserve
    wait $LATER
    gateway
    policies
    ;;
down) take_down ;;
*) "$ACTION" ;;
esac
