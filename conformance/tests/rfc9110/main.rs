//! What HTTP means, in any version (RFC 9110), by section: methods, statuses, dates, expectations, and the refusals'
//! form (RFC 9457).
#![expect(clippy::unwrap_used, reason = "in a check a failed unwrap is the report")]

mod answers;
mod cors;
mod expect;
mod methods;
