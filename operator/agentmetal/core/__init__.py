"""The vocabulary of AgentMetal: everything else imports it, it imports nothing of ours and does no I/O."""
