"""The jobs that compare counters with the ledger, and repair: empty for now, they come with a later version."""
