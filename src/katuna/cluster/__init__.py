"""Jobs on a Kubernetes cluster: the client, what is sent, what happens to it, its logs."""
