//! The household as this device knows it: who belongs to it, and how a ticket lets a device in.

mod joining;
mod members;

use hearth_net::{Network, Ticket};

pub(crate) use joining::join_pending;
pub use members::{Member, Members, MembersError, MembersParts, invitation};
pub(crate) use members::{shown_name, ticket};

/// Joins what a ticket invites to: a household, or only a network. A household that the device
/// belongs to already is not joined twice.
pub(crate) async fn join(
    network: &Network,
    members: &Members,
    ticket: &Ticket,
) -> Result<(), MembersError> {
    match invitation(ticket) {
        Some(invitation) if members.household() != (invitation.household, false) => {
            members.join(network, ticket).await
        }
        _ => Ok(network.join(ticket).await?),
    }
}
