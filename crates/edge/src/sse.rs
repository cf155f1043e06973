//! Server-sent events: `/v1/events/stream` and `/v1/lock-watch`.
