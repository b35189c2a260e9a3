"""The built-in Kubernetes types that the operator touches; our own kinds say theirs in `KindInfo.type`."""

from __future__ import annotations

from agentmetal.core.resource import ResourceType

SECRET = ResourceType("", "v1", "Secret", "secrets")
NAMESPACE = ResourceType("", "v1", "Namespace", "namespaces", namespaced=False)
LEASE = ResourceType("coordination.k8s.io", "v1", "Lease", "leases")
EVENT = ResourceType("events.k8s.io", "v1", "Event", "events")
CUSTOM_RESOURCE_DEFINITION = ResourceType(
    "apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False
)
SELF_SUBJECT_ACCESS_REVIEW = ResourceType(
    "authorization.k8s.io", "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", namespaced=False
)
SELF_SUBJECT_REVIEW = ResourceType(
    "authentication.k8s.io", "v1", "SelfSubjectReview", "selfsubjectreviews", namespaced=False
)
