"""Measurements. They run on one machine with the stores, so only ratios within one run mean anything."""
