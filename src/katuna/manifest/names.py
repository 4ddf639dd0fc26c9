"""The names that Kubernetes accepts."""

from __future__ import annotations

import re

MAX_LABEL = 63
GENERATED = 5
"""Characters that the API server adds to generateName."""

_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?\Z")
_DNS_1123 = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")


def is_label(name: str) -> bool:
    """Whether the name is a DNS-1123 label, as names of namespaces, containers and volumes must be."""
    return bool(_DNS_1123.match(name)) and len(name) <= MAX_LABEL


def is_service_name(name: str) -> bool:
    """Whether the name is a DNS-1035 label, which begins with a letter."""
    return bool(_DNS_1035.match(name)) and len(name) <= MAX_LABEL


def is_subdomain(name: str) -> bool:
    """Whether the name is a row of DNS-1123 labels with dots between, of any length."""
    return bool(_SUBDOMAIN.match(name))
