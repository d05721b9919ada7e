"""A real Kubernetes on one Linux machine, built from its own Go modules, for tests and the demo.

    python -m detinf_cluster build [kube|runc|pause|helm ...]   build binaries into the cache, with progress
    python -m detinf_cluster up --size node --name NAME         a node with simulated NPUs (root on Linux)
    python -m detinf_cluster up --size control-plane            an API server, a scheduler and controllers; no root
    python -m detinf_cluster status | kubeconfig | down         of the cluster of that name
    python -m detinf_cluster kubectl --name NAME -- get pods    kubectl of the same binary
    python -m detinf_cluster load-image --name NAME FILE.tar    import an OCI archive into the node

The *control-plane* size is processes on loopback ports. The *node* size adds containerd, a kubelet, kube-proxy and a
device plug-in, all in process, network and mount namespaces of its own: nothing of it is on the host but one loopback
port and a folder in the cache, and ending its first process ends all of it.

In Python: ``with ControlPlane(folder) as cluster: cluster.kubeconfig``.
"""
