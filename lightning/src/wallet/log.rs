//! LDK's log lines as `tracing` events.
//!
//! LDK calls a peer that hangs up an error and reports each gossip message; people would stop reading.
//! So everything is a level quieter here, except what LDK thinks is broken.

use ldk_node::logger::{LogLevel, LogRecord, LogWriter};

/// Hands LDK's log to `tracing`, target `ldk`.
pub(super) struct TracingLog;

impl LogWriter for TracingLog {
    fn log<'a>(&self, record: LogRecord<'a>) {
        let LogRecord { level, args, module_path, .. } = record;
        match level {
            LogLevel::Error => tracing::warn!(target: "ldk", module_path, "{args}"),
            LogLevel::Warn => tracing::info!(target: "ldk", module_path, "{args}"),
            LogLevel::Info => tracing::debug!(target: "ldk", module_path, "{args}"),
            LogLevel::Debug | LogLevel::Trace | LogLevel::Gossip => {
                tracing::trace!(target: "ldk", module_path, "{args}");
            }
        }
    }
}
