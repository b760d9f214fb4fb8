//! The doors of Hearth: the only place that listens for HTTP and serves it.
//!
//! A [`Listener`] can be served with a [`Policy`] alone, and a policy has a guard (who may be looked
//! at), a budget (how many connections and bytes strangers may hold) and a pace (how slow they may
//! be). So no address can be opened without the three. `cargo xtask tidy` refuses every other place
//! that binds a TCP listener. What is answered, and who is authorized, is decided behind the door.
//! Decision: docs/adr/0019-doors.md; for users: docs/guide/api.md, "Doors".

mod body;
mod budget;
mod coding;
mod guard;
mod serving;
mod stall;

pub use body::{BODY_BYTES_MAX, BodyError, read_body};
pub use budget::{Budget, Limits};
pub use guard::{Refusal, refusal_response};
pub use serving::{Bounds, Listener, Policy, Shutdown, serve};
