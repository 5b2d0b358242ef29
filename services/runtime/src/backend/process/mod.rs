//! Supervised child processes, for hosts without a daemon.
