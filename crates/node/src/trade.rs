//! Paying and being paid from a data folder: the parts of `hearth_payments`, put together as the configuration says.
//!
//! A [`PaidService`] sells an HTTP service; a [`Buyer`] buys; [`Books`] shows and settles what was promised; a
//! [`WatchService`] claims for devices that sleep. Each takes its store for itself. Nothing is decided here: prices and limits
//! come from the caller and the configuration.

mod books;
mod buyer;
mod service;
mod watch;

pub use books::{Books, BooksError, list, list_with};
pub(crate) use books::{claim_all, list_open};
pub use buyer::{Answer, BuyError, Buyer, ChannelOffer, Request};
pub use service::{FacilitatorOptions, OpenTillError, PaidService, ServeError, ServeOptions};
pub use watch::{HOUSEHOLD_DEVICES, WatchError, WatchOptions, WatchService};
