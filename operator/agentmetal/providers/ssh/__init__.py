"""Machines that exist already, reached by SSH: an inventory as a provider of servers.

A host is handed out by a claim: a file on it, created exclusively. There is no other list of who has what.
"""
