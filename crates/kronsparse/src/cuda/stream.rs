//! Queues of work on a device, and events that time it.
