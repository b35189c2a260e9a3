"""The Kubernetes API in process: implements `core.ports.KubeApi` for tests, the crash sweep and demonstrations.

    cluster = MemoryCluster(kinds=[Operation, ApprovalPolicy, Instance])
    cluster.grant("erin", "edit")
    operator, erin, admin = cluster.api(), cluster.api("erin"), cluster.api("admin")

`cluster` state and rules · `api` the view of one principal · `kinds` validation and defaults by the models ·
`schemas` and `cel` what a server makes of a schema beyond that, and the rules in the CRDs · `rbac` our roles ·
`admission` twins of the admission rules · `collector` garbage and namespaces · `watching` storage and watches.
It knows the part of CEL in which the rules of our CRDs are written, and refuses to serve a kind with a rule beyond it.
"""

from agentmetal.kube.memory.admission import OPERATOR
from agentmetal.kube.memory.cluster import WRITES, MemoryCluster
from agentmetal.kube.memory.rbac import Principal, Role
from agentmetal.kube.memory.watching import Faults, Request

__all__ = ["OPERATOR", "WRITES", "Faults", "MemoryCluster", "Principal", "Request", "Role"]
