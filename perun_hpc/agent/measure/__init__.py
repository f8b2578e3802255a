"""From readings to shares: intervals, static power, what a user may see, the node ledger."""
