"""What the cluster is told about the kinds: CRDs and roles, generated from the resource models.

`schema` turns a model into a structural schema and refuses what Kubernetes cannot express; `definition` makes the
CustomResourceDefinition; `roles` lists the resources for RBAC; `files` writes all of it and tells what is stale.
"""

from agentmetal.kube.crds.definition import AnyKind, definition
from agentmetal.kube.crds.files import fresh, write
from agentmetal.kube.crds.schema import NotExpressible

__all__ = ["AnyKind", "NotExpressible", "definition", "fresh", "write"]
