"""Providers: the accounts and hosts that machines come from."""
