"""The reconciler: jobs beside the service. So far it ends holds whose time is over; it knows the stores, not the web side."""
