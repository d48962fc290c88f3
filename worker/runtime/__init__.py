"""Process-level services of a worker: RQ worker, scheduler, heartbeat, database and clock."""
