"""AgentMetal: managed services on bare metal, from Kubernetes, with a plan before every action."""

__version__ = "0.1.0"
