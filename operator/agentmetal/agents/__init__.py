"""The domains. AGENTS is the table of contents: one agent for each kind; `app.py` builds them."""

from agentmetal.agents.instance.agent import InstanceAgent
from agentmetal.agents.provider.agent import ProviderAgent
from agentmetal.engine.agent import AnyAgent

AGENTS: tuple[type[AnyAgent], ...] = (ProviderAgent, InstanceAgent)
