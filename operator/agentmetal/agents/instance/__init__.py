"""Instances: one server each, from provisioning to decommissioning."""
