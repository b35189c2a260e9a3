"""The development control plane: a real etcd, kube-apiserver and kube-controller-manager on loopback.

Used by `agentmetal dev`, `agentmetal demo` and the integration tests. `build.ensure()` finds the programs or builds
them once; `ControlPlane(directory, binaries)` starts, stops and describes them. It applies no manifests and knows
nothing of AgentMetal's own kinds.

(`build` is not imported here, so that `python -m agentmetal.dev.controlplane.build` runs it exactly once.)
"""

from agentmetal.dev.controlplane.binaries import Binaries, ControlPlaneFailed, find
from agentmetal.dev.controlplane.plane import ControlPlane, Status

__all__ = ["Binaries", "ControlPlane", "ControlPlaneFailed", "Status", "find"]
