"""Energy records, the ledger, slurmdbd and the audit."""
