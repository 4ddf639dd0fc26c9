"""Jobs on a Kubernetes cluster: the client, the objects that are sent, their events and logs."""
