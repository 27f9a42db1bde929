"""AWS played on this machine: servers, the event source mapping, sandboxes and faults."""
