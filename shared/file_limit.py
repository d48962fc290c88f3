"""The limit of open files: each connection is one, and systems set it low at first."""

import resource

# Enough for the largest PROVIDER_CONCURRENCY; a hard limit may be infinite.
MAX_OPEN_FILES = 65_536


def raise_file_limit() -> int:
    """Raise this process's soft limit of open files as far as its hard limit; return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return get_file_limit()


def get_file_limit() -> int:
    """Return the number of files that this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_OPEN_FILES if soft == resource.RLIM_INFINITY else soft
